"""What is found in a model, what is refused, and that the model is left as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.checkpoint import checkpoint

from network.nets import Net, X, conv, half, pairs, residual
from unbackdoor.core.errors import ModelError
from unbackdoor.network.channels import feature_maps, silenced
from unbackdoor.network.layers import find_layers


def refused(model: nn.Module, *words: str) -> None:
    with pytest.raises(ModelError) as error:
        find_layers(model, X)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_convolution_called_twice_is_refused_by_name():
    model = Net(lambda net, x: net.deep(net.deep(net.a(x))), a=conv(), deep=conv(4))
    refused(model, "'deep'", "twice")


@pytest.mark.parametrize("style", ["parametrization", "hook", "pruning"])
def test_weights_made_anew_in_every_pass_are_refused_by_name(style):
    model = Net(lambda net, x: net.odd(net.a(x)), a=conv(), odd=conv(4))
    if style == "parametrization":
        parametrizations.weight_norm(model.odd)
    elif style == "hook":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model.odd)
    else:
        prune.random_unstructured(model.odd, "weight", 0.5)
    refused(model, "'odd'", "parametrized")


def test_shared_weights_are_refused_by_name():
    model = Net(lambda net, x: net.b(net.a(net.stem(x))), stem=conv(), a=conv(4), b=conv(4))
    model.b.weight = model.a.weight
    refused(model, "'a'", "'b'", "share")


@pytest.mark.parametrize("how", ["no_grad", "detach", "reentrant"])
def test_layers_without_a_gradient_are_refused_by_name(how):
    def flow(net, x):
        if how == "no_grad":
            with torch.no_grad():
                return net.b(net.a(x))
        if not x.requires_grad:
            return net.b(net.a(x))
        if how == "detach":
            return net.b(net.a(x).detach())
        return checkpoint(lambda x: net.b(net.a(x)), x, use_reentrant=True)

    model = Net(flow, a=conv(), b=conv(4))
    refused(model, "'b'" if how == "detach" else "'a'", "no_grad or detach")


def test_checkpointed_activations_work():
    model = Net(
        lambda net, x: checkpoint(lambda x: net.n(net.a(x)), x, use_reentrant=False),
        a=conv(),
        n=nn.BatchNorm2d(4),
    )
    assert pairs(model) == {"a": "n"}


def test_nothing_to_work_on_is_refused():
    refused(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), "Sequential", "no convolution")
    unused = Net(lambda net, x: F.conv2d(x, net.a.weight), a=conv())
    refused(unused, "Net", "calls no convolution")


def test_scripted_and_compiled_models_are_refused():
    plain = nn.Sequential(conv(), nn.Flatten(), nn.Linear(256, 3))
    torch_compiled = torch.compile(copy.deepcopy(plain))
    refused(torch_compiled, "compiled")
    in_place = copy.deepcopy(plain)
    in_place.compile()
    refused(in_place, "compiled")
    with pytest.warns(FutureWarning):
        scripted = torch.jit.script(plain)
    refused(scripted, "scripted")


def test_calls_by_keyword_and_a_change_of_the_input_in_place():
    def flow(net, x):
        x.sub_(0.5)
        return net.n(input=net.a(input=x))

    model = Net(flow, a=conv(), n=nn.BatchNorm2d(4))
    before = X.clone()
    assert pairs(model) == {"a": "n"}
    assert torch.equal(X, before)


def test_a_convolution_that_makes_the_logits_is_no_layer():
    model = nn.Sequential(
        conv(), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.ReLU(True), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    assert pairs(model) == {"0": None}


def test_the_model_is_left_as_it_was():
    model = residual(in_place=True)
    model.stem.weight.requires_grad_(False)
    model.train()
    model.bn1.eval()
    seen = []
    handle = model.conv1.register_forward_hook(lambda module, args, y: seen.append(y.shape))
    state = copy.deepcopy(model.state_dict())
    modes = [module.training for module in model.modules()]
    wants = [parameter.requires_grad for parameter in model.parameters()]
    layers = find_layers(model, X)
    with feature_maps(model, layers):
        model.eval()(X)
    for module, was in zip(model.modules(), modes, strict=True):
        module.training = was
    quiet = silenced(model, layers, half(layers))
    assert quiet is not model
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model.modules()] == modes
    assert [module.training for module in quiet.modules()] == modes
    assert [parameter.requires_grad for parameter in model.parameters()] == wants
    assert all(parameter.grad is None for parameter in model.parameters())
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()]
    assert sum(hooks) == 1 and len(model.conv1._forward_hooks) == 1 and len(seen) == 2
    handle.remove()


def test_modes_hooks_and_wants_come_back_after_an_error():
    def broken(net, x):
        net.a(x)
        if net.ready:
            raise RuntimeError("broken model")
        return x

    Net.ready = False
    model = Net(broken, a=conv())
    Net.ready = True
    model.train()
    with pytest.raises(RuntimeError, match="broken model"):
        find_layers(model, X)
    assert model.a.training and model.a.weight.requires_grad
    assert not model.a._forward_hooks and not model.a._forward_pre_hooks
    del Net.ready


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("train", [False, True])
def test_what_is_found_does_not_hang_on_modes(frozen, grad, train):
    model = residual(in_place=True).requires_grad_(not frozen).train(train)
    with torch.set_grad_enabled(grad):
        assert pairs(model)["short"] == "short_bn"
