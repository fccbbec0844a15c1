import pytest
import torch
from torch import nn

from defenses.samples import task, with_noisy_channel
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.measure import accuracy
from unbackdoor.core.run import Run
from unbackdoor.defenses.rnp import RNP
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
    right, wrong, none = masked.masks[0].tolist()
    assert (right, none) == (1.0, 1.0)
    assert wrong == 0.0
    assert scores["0"][[0, 2]].tolist() == [1.0, 1.0] and 0 < scores["0"][1] < 0.5


def test_what_fell_early_scores_lower_than_what_fell_late(monkeypatch):
    # One mask falls in the first step, one in the third of four; both end at 0.
    clean, net = task(n=16)
    masked = MaskedNorms(net, ["1"])

    def falling(model, *_, after_step, **__):
        for step in range(4):
            with torch.no_grad():
                model.masks[0][0] = -1
                model.masks[0][1] = 1 if step < 2 else -1
            after_step(model)

    monkeypatch.setattr("unbackdoor.defenses.rnp.fit", falling)
    scores = RNP().recover(masked, clean, Run())["1"]
    assert masked.masks[0][:2].tolist() == [0, 0]
    assert scores[:3].tolist() == [0, 0.5, 1]


def test_unlearning_ends_at_the_floor():
    clean, net = task()
    run = Run()
    passes = []
    net.register_forward_pre_hook(lambda module, _: passes.append(module.training))
    RNP(unlearn_lr=1.0, batch=16, floor=0.5).unlearn(net, clean, run)
    assert accuracy(net, clean, run).value <= 0.5
    assert 5 <= sum(passes) < 20 * 5  # the rest of its twenty epochs is not spent
    before = [weight.clone() for weight in net.parameters()]
    RNP(unlearn_epochs=0).unlearn(net, clean, run)
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_it_prunes_the_model_as_it_came():
    clean, net = task()
    net = with_noisy_channel(net)
    repaired = RNP(epochs=6, batch=16, unlearn_lr=0.5).repair(net, clean, Run())
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
