"""FMP: what it prunes, what it holds silent, and that it leaves its input alone."""

from __future__ import annotations

import copy

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from defenses.samples import noise, noisy_net
from unbackdoor.core.errors import ImagesError, ModelError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.run import Run
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import find_layers

RUN = Run(precision="fp32")


class OneChannel(nn.Module):
    """Of 8 channels, each with its own pixel column, one alone decides; the norm is the identity.

    Class 0 needs the decisive column to be within 0.12 of 0.5.
    """

    def __init__(self, decisive: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, (1, 8), bias=False)
        self.norm = nn.BatchNorm2d(8, eps=0.0)
        self.decisive = decisive
        with torch.no_grad():
            self.conv.weight.copy_(torch.eye(8).view(8, 1, 1, 8))

    def forward(self, x: Tensor) -> Tensor:
        value = self.norm(self.conv(x))[:, self.decisive, 0, 0]
        inside = 0.12 - (value - 0.5).abs()
        return torch.stack([inside, torch.zeros_like(inside)], 1)


def grey(n: int) -> Images:
    pixels = torch.full((n, 1, 1, 8), 128, dtype=torch.uint8)
    return Images(pixels, torch.zeros(n, dtype=torch.int64), ("in", "out"))


@pytest.mark.parametrize("decisive", range(8))
def test_the_channel_that_decides_is_pruned(decisive):
    """Start and step bring the decisive column 0.2 away for its own channel, 0.1 for others."""
    defense = FMP(p=8, eps=0.2, alpha=0.1, ranking_images=4, epochs=0)
    repair = defense.repair(OneChannel(decisive), grey(6), RUN)
    assert repair.silenced["conv"].nonzero().flatten().tolist() == [decisive]
    assert repair.scores["conv"][decisive] == 0
    assert repair.scores["conv"].sum() == 7  # all other channels' images stay right
    weight = repair.model.get_submodule("conv").weight
    assert (weight[decisive] == 0).all() and weight.count_nonzero() == 7


def test_each_layer_loses_its_share():
    repair = FMP(p=3, epochs=0, ranking_images=8).repair(noisy_net(), noise(), RUN)
    assert {name: int(mask.sum()) for name, mask in repair.silenced.items()} == {"0": 2, "3": 3}
    worst = repair.scores["3"][repair.silenced["3"]].max()
    assert worst <= repair.scores["3"][~repair.silenced["3"]].min()


def test_layers_that_lose_nothing_are_said():
    with pytest.warns(UnbackdoorWarning, match=r"nothing from 1 of 2 layers.*p = 7 channels \(0\)"):
        repair = FMP(p=7, epochs=0, ranking_images=8).repair(noisy_net(), noise(), RUN)
    assert {name: int(mask.sum()) for name, mask in repair.silenced.items()} == {"0": 0, "3": 1}
    assert repair.notes["layers"] == 2 and repair.notes["layers_spared"] == 1
    assert repair.notes["ranking_images"] == 8


def test_a_p_that_prunes_nothing_is_refused():
    with pytest.raises(ParameterError, match="the widest layer has 9 channels"):
        FMP(p=10, epochs=0, ranking_images=8).repair(noisy_net(), noise(), RUN)


def test_eps_and_alpha_change_what_is_scored():
    net, scored = noisy_net(), []
    for told in ({"eps": 0.1}, {"eps": 0.2}, {"eps": 0.2, "alpha": 0.1}, {"projected": False}):
        fields = {"eps": 0.2, "alpha": 0.05, "p": 3, "epochs": 0, "ranking_images": 24, **told}
        layers = find_layers(net, to_float(noise().pixels[:2]))
        found = FMP(**fields).rankings(net, layers, noise(), RUN)
        scored.append(tuple(found["3"].loss.tolist()))
    assert len(set(scored)) == 4


def maps(model: nn.Module, path: str) -> Tensor:
    found: list[Tensor] = []
    hook = lambda module, args, y: found.append(y.detach().clone())  # noqa: E731
    handle = model.get_submodule(path).register_forward_hook(hook)
    model(torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1)))
    handle.remove()
    return found[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_hold_keeps_silence_through_tuning_and_hold_false_does_not(precision):
    run = Run(precision=precision)
    fields = {"p": 3, "epochs": 2, "lr": 0.1, "batch": 8, "ranking_images": 8}
    held = FMP(**fields).repair(noisy_net(), noise(), run)
    for train in (False, True):
        held.model.train(train)
        for conv, norm in (("0", "1"), ("3", "3")):
            for path in (conv, norm):
                silent = held.silenced[conv]
                assert (maps(held.model, path)[:, silent] == 0).all()
                assert (maps(held.model, path)[:, ~silent] != 0).any()


def test_without_hold_channels_grow_back_and_nothing_else_is_claimed():
    """GELU, since a channel that is 0 before a ReLU gets no gradient at all."""
    fields = {"p": 3, "epochs": 2, "lr": 0.1, "batch": 8, "ranking_images": 8}
    held = FMP(**fields).repair(noisy_net(nn.GELU), noise(), RUN)
    free = FMP(**fields, hold=False).repair(noisy_net(nn.GELU), noise(), RUN)
    assert free.silenced == {}
    for name, mask in held.pruned.items():  # but what was pruned is known
        assert mask.any() and torch.equal(mask, free.pruned[name])
    for conv, out in (("0", "1"), ("3", "3")):
        silent = held.silenced[conv]
        assert (maps(held.model, out)[:, silent] == 0).all()
        assert (maps(free.model, out)[:, silent] != 0).any()


def test_the_model_and_global_randomness_are_left_alone_and_seeds_decide():
    model = noisy_net().train()
    model[1].eval()
    model[0].weight.requires_grad_(False)
    state = copy.deepcopy(model.state_dict())
    before = torch.get_rng_state()
    defense = FMP(p=3, epochs=1, batch=8, ranking_images=8)
    one, two = (defense.repair(model, noise(), RUN) for _ in range(2))
    other = defense.repair(model, noise(), Run(seed=1, precision="fp32"))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [module.training for module in model] == [True, False] + [True] * 6
    assert [module.training for module in one.model] == [True, False] + [True] * 6
    assert not model[0].weight.requires_grad and model[3].weight.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in one.model.modules())
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, two.model.state_dict()[key]), key
    assert not torch.equal(one.model[3].weight, other.model[3].weight)


def test_fewer_images_than_asked_for_rank_all_the_same():
    with pytest.warns(UnbackdoorWarning, match="has 5 clean images to rank, not 500"):
        repair = FMP(p=3, epochs=0, ranking_images=500).repair(noisy_net(), noise(5), RUN)
    assert repair.notes["ranking_images"] == 5
    assert set(repair.scores) == {"0", "3"}
    assert ((repair.scores["0"] * 5).round() / 5 - repair.scores["0"]).abs().max() < 1e-6


def test_progress_counts_every_channel():
    told: list[tuple[str, int, int]] = []
    run = Run(precision="fp32", progress=lambda *step: told.append(step))
    FMP(p=3, epochs=0, ranking_images=4).repair(noisy_net(), noise(), run)
    ranking = [step for step in told if step[0] == "ranking"]
    total = ranking[0][2]
    assert total % 15 == 0  # 6 channels and 9, in whatever unit
    assert ranking[0] == ("ranking", 0, total) and ranking[-1] == ("ranking", total, total)
    assert [done for _, done, _ in ranking] == sorted(done for _, done, _ in ranking)


def test_what_cannot_be_repaired_is_refused():
    few = {"epochs": 0, "ranking_images": 4}
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match="no convolution"):
        FMP(**few).repair(flat, noise(), RUN)
    twice = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match="'0' is called twice"):
        FMP(**few).repair(model, noise(), RUN)
    with pytest.raises(ImagesError, match="needs clean images"):
        FMP(epochs=0).repair(noisy_net(), noise(0), RUN)
    broken = noisy_net()
    broken[3].bias.data[2] = float("nan")
    with pytest.raises(ModelError, match=r"3\.bias"):
        FMP(epochs=0).repair(broken, noise(), RUN)


@pytest.mark.parametrize(
    "field", [{"p": 0}, {"eps": 0}, {"eps": 2}, {"alpha": 0}, {"steps": 0}, {"ranking_images": 0}]
)
def test_fields_have_bounds(field):
    with pytest.raises(ValidationError):
        FMP(**field)


def test_a_model_that_changes_its_input_in_place_can_be_ranked():
    class Normalising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = noisy_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.sub_(0.5))

    model = Normalising().eval()
    assert len(find_layers(model, torch.rand(2, 3, 8, 8))) == 2
    repair = FMP(p=3, epochs=0, ranking_images=4).repair(model, noise(), RUN)
    assert len(repair.silenced) == 2
