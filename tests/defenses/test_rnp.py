import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task, with_noisy_channel
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.rnp import RNP, lowest
from unbackdoor.network.norms import MaskedNorms


def test_recovering_mutes_what_harms_and_leaves_what_is_useless():
    # Dark and bright images. Channel 0 votes for the right class, channel 1 twice for the wrong
    # one, channel 2 for none.
    labels = torch.arange(16) % 2
    pixels = (labels * 255).to(torch.uint8).view(16, 1, 1, 1).expand(16, 3, 8, 8).contiguous()
    net = nn.Sequential(nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    with torch.no_grad():
        net[3].weight.copy_(torch.tensor([[-1.0, 2.0, 0.0], [1.0, -2.0, 0.0]]))
        net[3].bias.zero_()
    masked = MaskedNorms(net, ["0"])
    clean = Images(pixels, labels, ("dark", "bright"))
    scores = RNP(epochs=20, batch=8).recover(masked, clean, Run())
    assert masked.masks[0].tolist() == [1.0, 0.0, 1.0]
    assert scores["0"].tolist() == pytest.approx([1.0, 0.0, 1.0], abs=2e-3)


def test_masks_that_end_equal_are_told_apart_by_their_mean(monkeypatch):
    net = nn.Sequential(nn.BatchNorm2d(3))
    masked = MaskedNorms(net, ["0"])
    states = ([1.0, 0.5, 0.0], [0.5, 0.0, 0.0], [0.0, 0.0, 0.2], [0.0, 0.0, 0.1])

    def fit(model, *_, after_step, **__):
        for state in states:
            with torch.no_grad():
                masked.masks[0].copy_(torch.tensor(state))
            after_step(model)

    monkeypatch.setattr("unbackdoor.defenses.rnp.fit", fit)
    clean, _ = task(n=16)
    scores = RNP(epochs=2, batch=8).recover(masked, clean, Run())["0"]
    assert scores.argsort().tolist() == [1, 0, 2]  # the last is above 0 in the end
    assert scores.tolist() == pytest.approx([0.375e-3, 0.125e-3, 0.1 + 0.075e-3])


def test_cuts_go_by_the_number_of_channels():
    cuts = lowest({"a": torch.arange(100.0), "b": torch.arange(100.0, 200.0)})
    assert cuts == [2.0 * share for share in range(1, 51)]


def asked_of_fit(monkeypatch, method):
    """What unlearning asks of the training loop, which does nothing."""
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.rnp.fit", lambda *_, **told: kept.update(told))
    clean, net = task(n=16)
    method.unlearn(net, clean, Run())
    return kept


def test_unlearning_ends_with_the_pass_that_fell_to_the_floor(monkeypatch):
    told = asked_of_fit(monkeypatch, RNP(floor=0.5))
    y = torch.zeros(4, dtype=torch.int64)
    for rights in ([4, 1], [2, 1], [4, 0]):  # the right answers of two batches of four
        for right in rights:
            logits = torch.tensor([[1.0, 0.0]] * right + [[0.0, 1.0]] * (4 - right))
            loss = told["objective"](lambda x, found=logits: found, None, y)
            assert float(loss) == pytest.approx(-float(F.cross_entropy(logits, y)))
        assert told["until"](None) is (sum(rights) <= 4)


def test_unlearning_slows_down_and_its_gradients_are_not_clipped(monkeypatch):
    told = asked_of_fit(monkeypatch, RNP())
    assert [told["schedule"](step, 80) for step in (0, 39, 40, 79)] == [1, 1, 0.1, 0.1]
    assert told["momentum"] == 0.9 and told["weight_decay"] == 5e-4
    assert "optimizer" not in told


def test_unlearning_spends_no_more_than_it_needs():
    clean, net = task()
    passes = []
    net.register_forward_pre_hook(lambda module, _: passes.append(module.training))
    RNP(unlearn_lr=1.0, batch=16, floor=0.5).unlearn(net, clean, Run())
    assert all(passes) and 5 <= len(passes) < 20 * 5
    before = [weight.clone() for weight in net.parameters()]
    RNP(unlearn_epochs=0).unlearn(net, clean, Run())
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_the_masks_recover_the_copy_that_unlearned(monkeypatch):
    clean, net = task()
    seen = []

    def unlearn(_, model, *__):
        with torch.no_grad():
            model[8].bias.fill_(7)

    def recover(_, masked, *__):
        seen.append(masked.model[8].bias.clone())
        return masked.learned()

    monkeypatch.setattr(RNP, "unlearn", unlearn)
    monkeypatch.setattr(RNP, "recover", recover)
    repaired = RNP().mend(net, clean, Run()).model
    assert (seen[0] == 7).all() and not (repaired[8].bias == 7).any()


@pytest.mark.parametrize("held_out", [0.0, 0.1])
def test_no_channel_goes_whose_mask_ended_above_what_the_paper_cuts(monkeypatch, held_out):
    clean, net = task()
    masks = {"1": torch.ones(6), "4": torch.tensor([0.0, 0.1, 0.69, 0.71, 1.0, 1.0, 1.0, 1.0])}
    monkeypatch.setattr(RNP, "unlearn", lambda *_: None)
    monkeypatch.setattr(RNP, "recover", lambda *_: masks)
    # Whatever it costs: on held-out images, and on all where none are held out.
    repaired = RNP(cost=1.0, held_out=held_out).mend(net, clean, Run())
    assert repaired.notes["threshold"] == 0.7
    assert repaired.silenced["4"].tolist() == [True] * 3 + [False] * 5
    assert not repaired.silenced["1"].any()


def test_it_prunes_the_model_as_it_came(monkeypatch):
    clean, net = task()
    net = with_noisy_channel(net)
    masks = {"1": torch.ones(6), "4": torch.cat([torch.ones(7), torch.zeros(1)])}
    monkeypatch.setattr(RNP, "recover", lambda *_: masks)
    repaired = RNP(unlearn_epochs=1, batch=16).repair(net, clean, Run())
    silent = repaired.silenced["4"]
    assert silent.any()
    assert torch.equal(silent, repaired.scores["4"] < repaired.notes["threshold"])
    assert torch.equal(repaired.model[8].weight, net[8].weight)
    assert torch.equal(repaired.model[4].weight[~silent], net[4].weight[~silent])


def test_few_images_unlearn_and_recover_however_many_there_are():
    clean, net = task(n=320)
    method = RNP(images=32, epochs=3, unlearn_epochs=2, floor=0.0, batch=16)
    told = {}
    run = Run(progress=lambda stage, done, total: told.setdefault(stage, total))
    method.mend(net, clean, run)
    assert (told["unlearning"], told["masks"]) == (2 * 2, 3 * 2)


def test_a_network_without_norms_is_refused_before_any_work():
    clean, _ = task()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 2))
    with pytest.raises(ModelError, match="rnp needs norms"):
        RNP().repair(net, clean, Run())
