import copy

import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ModelError
from unbackdoor.network.inserts import Bound, Polish, attach_, reattach_


def net():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    for weight in model.parameters():
        nn.init.constant_(weight, 0.5)
    return model


def test_a_bound_cuts_each_channel_off_at_its_share():
    bound = Bound(2, torch.tensor([4.0, 10.0]))
    bound.share.data.copy_(torch.tensor([0.5, 1.0]))
    y = torch.tensor([[[1.0, 3.0], [9.0, 11.0]]])
    assert bound(y).tolist() == [[[1.0, 2.0], [9.0, 10.0]]]


def test_a_fresh_insert_changes_nothing():
    model, x = net(), torch.rand(3, 1, 2, 2)
    state = torch.get_rng_state()
    Polish(3)
    assert torch.equal(state, torch.get_rng_state())
    before = model(x)
    attach_(model, "0", Bound(2, torch.full((2,), 100.0)))
    assert torch.equal(model(x), before)
    polish = Polish(2).eval()
    y = torch.rand(3, 2, 2, 2)
    torch.testing.assert_close(polish(y), y, atol=1e-4, rtol=0)


def test_a_state_dict_hangs_its_inserts_behind_a_fresh_network():
    model, x = net(), torch.rand(3, 1, 2, 2)
    bound = attach_(model, "0", Bound(2))
    attach_(model, "0", Polish(1)).conv.weight.data.mul_(3)
    bound.most.fill_(0.1)
    fresh = net()
    assert set(fresh.state_dict()) < set(model.state_dict())
    reattach_(fresh, model.state_dict())
    fresh.load_state_dict(model.state_dict())
    assert torch.equal(fresh.eval()(x), model.eval()(x))
    assert not torch.equal(model(x), net()(x))


def test_behind_a_linear_layer_a_bound_cuts_the_last_dimension():
    model = nn.Linear(3, 2)
    host = nn.Sequential(model, nn.ReLU())
    bound = attach_(host, "0", Bound(2, torch.tensor([0.1, -0.2])))
    y = host[0](torch.randn(5, 4, 3))
    assert y.shape == (5, 4, 2) and (y <= torch.tensor([0.1, -0.2]) + 1e-6).all()
    fresh = nn.Sequential(nn.Linear(3, 2), nn.ReLU())
    reattach_(fresh, host.state_dict())
    assert fresh[0].bound.most.shape == bound.most.shape


def test_a_filter_stands_before_its_convolution():
    model, x = net(), torch.rand(3, 1, 2, 2)
    filtered = attach_(model, "0", Polish(1))
    filtered.conv.weight.data.mul_(3)
    torch.testing.assert_close(model.eval()(x), net()(3 * x), atol=1e-3, rtol=1e-3)


def test_a_copy_calls_its_own_insert():
    model, x = net(), torch.rand(3, 1, 2, 2)
    bound = attach_(model, "0", Bound(2))
    twin = copy.deepcopy(model)
    bound.most.fill_(0.0)
    assert not torch.equal(model(x), twin(x))


def test_a_second_insert_of_a_kind_is_refused():
    model = net()
    attach_(model, "0", Polish(1))
    attach_(model, "0", Bound(2))
    with pytest.raises(ModelError, match="0 has a filter already"):
        attach_(model, "0", Polish(1))
    with pytest.raises(ModelError, match="0 has a bound already"):
        attach_(model, "0", Bound(2))


def test_a_bound_behind_the_norm_of_a_filter_is_hung_there_again():
    model, fresh = net(), net()
    attach_(model, "0", Polish(1))
    attach_(model, "0.filter.norm", Bound(1))
    reattach_(fresh, dict(reversed(model.state_dict().items())))
    assert fresh.state_dict().keys() == model.state_dict().keys()


HUGE = torch.empty(10**9, device="meta")


@pytest.mark.parametrize(
    "state",
    [
        {"0.bound.share": HUGE},
        {"0.bound.share": torch.ones(3)},
        {"0.bound.share": torch.ones(())},
        {"0.bound.share": torch.ones(2, 2)},
        {"3.bound.share": torch.ones(8)},  # what the linear layer takes, not what it gives
        {"1.bound.share": torch.ones(2)},
        {"7.bound.share": torch.ones(2)},
        {"0.bound.most": torch.ones(2)},
        {"0.anything.share": torch.ones(2)},
        {"0.gate.share": torch.ones(2)},  # not behind an encoder block
        {"0.filter.norm.weight": torch.ones(1)},  # a kernel that the file does not hold
        {"0.filter.norm.weight": HUGE, "0.filter.conv.weight": HUGE.expand(2, -1)},
        {
            "0.filter.norm.weight": torch.ones(70_000, device="meta"),
            "0.filter.conv.weight": torch.ones(70_000, 70_000, 1, 1, device="meta"),
        },
        {
            "0.filter.norm.weight": torch.ones(2),  # what the convolution gives, not what it takes
            "0.filter.conv.weight": torch.ones(2, 2, 1, 1),
        },
        {
            "3.filter.norm.weight": torch.ones(8),  # not before a convolution
            "3.filter.conv.weight": torch.ones(8, 8, 1, 1),
        },
    ],
)
def test_nothing_is_hung_behind_a_layer_that_it_does_not_fit(state):
    model = net()
    before = [name for name, _ in model.named_modules()]
    reattach_(model, state)
    assert [name for name, _ in model.named_modules()] == before


def test_what_a_network_has_of_its_own_is_left():
    model = net()
    model[0].bound = mine = nn.Linear(1, 1)
    reattach_(model, {"0.bound.share": torch.ones(2)})
    assert model[0].bound is mine and not model[0]._forward_hooks
