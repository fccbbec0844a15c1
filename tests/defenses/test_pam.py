import copy

import pytest
import torch
from torch import nn

from defenses.samples import backdoored, rate, stamped, task
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.run import Run
from unbackdoor.defenses.pam import PAM, PathAware
from unbackdoor.training.fit import estimate_norms_

RUN = Run(precision="fp32")
CLEANSE = {"search_epochs": 12, "search_lr": 0.3, "search_batch": 40, "anomaly": 0.5, "epochs": 0}


def test_the_gradient_is_taken_on_the_way_back():
    weight = nn.Parameter(torch.tensor([1.0, 2.0]))
    step = PathAware([weight], [torch.tensor([4.0, 6.0])], rho=0.5, lr=0.1)
    at = []

    def closure():
        step.zero_grad()
        at.append(weight.detach().clone())
        with torch.enable_grad():
            loss = weight.square().sum() / 2
        loss.backward()
        return loss.detach()

    step.step(closure)
    torch.testing.assert_close(at[0], torch.tensor([1.3, 2.4]))
    torch.testing.assert_close(weight.detach(), torch.tensor([1.0 - 0.13, 2.0 - 0.24]))


def test_at_the_end_of_the_way_the_gradient_is_its_own():
    weight = nn.Parameter(torch.ones(2))
    step = PathAware([weight], [torch.ones(2)], rho=0.5, lr=0.1)
    step.step(lambda: setattr(weight, "grad", torch.ones(2)))
    torch.testing.assert_close(weight.detach(), torch.full((2,), 0.9))


def test_the_trigger_that_the_wrapped_repair_finds_is_unlearned(monkeypatch):
    clean, net = backdoored(classes=4)
    told = {"of": "neural_cleanse", "settings": CLEANSE, "batch": 20, "flip": False}
    method = PAM(**told, rounds=1, epochs=60, lr=5.0, weight_decay=0, share=0.5, max_acc_drop=1.0)
    trigger = method.inner().inverted(net, clean, RUN)
    x = clean.pixels / 255
    assert (net(trigger(x)).argmax(1) == 1).float().mean() > 0.9
    after = method.repair(net, clean, RUN).model
    monkeypatch.setattr(
        "unbackdoor.defenses.neural_cleanse.NeuralCleanse.inverted", lambda *_: None
    )
    without = method.repair(net, clean, RUN).model
    triggered = stamped(clean)
    assert rate(after, triggered, 1) < rate(without, triggered, 1) - 0.2


def test_the_first_trigger_is_that_of_the_model_as_it_came(monkeypatch):
    clean, net = task()
    seen = []
    monkeypatch.setattr(
        "unbackdoor.defenses.bti_dbf.BTIDBF.inverted",
        lambda _, model, *__: seen.append(model[8].weight.detach().clone()),
    )
    method = without_a_path(epochs=2).model_copy(update={"rounds": 2})
    repaired = method.mend(copy.deepcopy(net), clean, RUN).model
    assert torch.equal(seen[0], net[8].weight)  # although it was repaired already
    assert torch.equal(seen[1], repaired[8].weight) and not torch.equal(seen[0], seen[1])


def test_weights_do_not_fade(monkeypatch):
    clean, net = task()
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.pam.PathAware", lambda *_, **told: kept.update(told))
    monkeypatch.setattr(PAM, "tune", lambda self, net, *_, optimizer, **__: optimizer([]))
    PAM(rounds=1)._round(net, net, None, clean, RUN, 1)
    assert kept == {"rho": 0.5, "lr": 0.01, "momentum": 0.1, "weight_decay": 0.0}


def test_the_wrapped_repair_mirrors_what_it_mirrors_itself():
    assert [PAM(flip=flip).inner().flip for flip in (True, False)] == [True, False]
    assert PAM(flip=False, settings={"flip": True}).inner().flip


@pytest.mark.parametrize("name", ["fine_tuning", "pam"])
def test_a_repair_that_finds_no_trigger_is_refused(name):
    clean, net = task()
    with pytest.raises(ParameterError, match=f"{name} finds none|recursion"):
        PAM(of=name).repair(net, clean, RUN)


def without_a_path(**settings):
    """PAM that adds nothing to the wrapped repair but new statistics of the norms."""
    told = {"rounds": 1, "identity_epochs": 0, "mask_epochs": 0, "trigger_epochs": 0, **settings}
    return PAM(of="bti_dbf", settings=told, rounds=1, epochs=0, batch=40)


def test_the_wrapped_repair_comes_first():
    clean, net = task()
    method = without_a_path(epochs=2)
    repaired = method.mend(copy.deepcopy(net), clean, RUN).model
    expected = method.inner().mend(copy.deepcopy(net), clean, RUN).model
    for a, b in zip(repaired.parameters(), expected.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(repaired[0].weight, net[0].weight)


def test_norms_are_estimated_anew_at_the_end():
    clean, net = task()
    repaired = without_a_path(epochs=0).mend(copy.deepcopy(net), clean, RUN).model
    expected = copy.deepcopy(net)
    estimate_norms_(expected, clean, RUN, batch=40, flip=True)
    assert torch.equal(repaired[1].running_mean, expected[1].running_mean)
    assert not torch.equal(repaired[1].running_mean, net[1].running_mean)
