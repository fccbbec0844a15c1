"""FMP: what it prunes, what it holds silent, and that it leaves its input alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from unbackdoor.core.errors import ImagesError, ModelError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, to_float
from unbackdoor.core.run import Progress, Run
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranker

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


def noisy_net(act: type[nn.Module] = nn.ReLU) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), act()),
            *(nn.Conv2d(6, 9, 3, padding=1), act()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 3)),
        )
        for tensor in (*model[1].parameters(), model[1].running_mean):
            tensor.data.normal_()
    return model.eval()


def noise(n: int = 24) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3, ("a", "b", "c"))


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
    repair = FMP(p=3, epochs=0, ranking_images=500).repair(noisy_net(), noise(5), RUN)
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


class StoppedError(Exception):
    pass


def ranked(monkeypatch) -> list[str]:
    """Fills with the names of the layers that are ranked."""
    names: list[str] = []
    rank = Ranker.rank
    monkeypatch.setattr(
        Ranker,
        "rank",
        lambda self, layer, *args: (names.append(layer.name), rank(self, layer, *args))[1],
    )
    return names


RESUMED = FMP(p=3, epochs=2, batch=8, ranking_images=8)


def stop_at(stage: str, units: int) -> Progress:
    """Stops a stage as soon as more than so many units of it are done."""

    def progress(now: str, done: int, total: int) -> None:
        if now == stage and done > units:
            raise StoppedError

    return progress


def test_a_stopped_ranking_goes_on_with_the_next_layer_and_gives_the_same_bits(
    tmp_path, monkeypatch
):
    whole = RESUMED.repair(noisy_net(), noise(), RUN)
    names = ranked(monkeypatch)
    with pytest.raises(StoppedError):  # in the second layer; the first has 6 channels
        RESUMED.repair(
            noisy_net(), noise(), replace(RUN, progress=stop_at("ranking", 6), cache=tmp_path)
        )
    assert names == ["0", "3"]
    told: list[tuple[str, int, int]] = []
    parts: list[tuple[str, str]] = []
    run = replace(
        RUN,
        cache=tmp_path,
        progress=lambda *step: told.append(step),
        part=lambda *part: parts.append(part),
    )
    again = RESUMED.repair(noisy_net(), noise(), run)
    assert names == ["0", "3", "3"] and parts == [("ranking", "3")]
    assert told[0] == ("ranking", 6, 15) and ("ranking", 15, 15) in told
    assert_same(again, whole)


def test_a_stopped_tuning_goes_on_and_ranks_nothing_again(tmp_path, monkeypatch):
    whole = RESUMED.repair(noisy_net(), noise(), RUN)
    names = ranked(monkeypatch)
    with pytest.raises(StoppedError):  # 24 images are 3 steps an epoch
        RESUMED.repair(
            noisy_net(), noise(), replace(RUN, progress=stop_at("fine-tuning", 4), cache=tmp_path)
        )
    told: list[tuple[str, int, int]] = []
    run = replace(RUN, cache=tmp_path, progress=lambda *step: told.append(step))
    again = RESUMED.repair(noisy_net(), noise(), run)
    assert names == ["0", "3"]
    assert told[:2] == [("ranking", 15, 15), ("fine-tuning", 3, 6)]
    assert_same(again, whole)


def assert_same(one: Repair, other: Repair) -> None:
    for key, value in one.model.state_dict().items():
        assert torch.equal(value, other.model.state_dict()[key]), key
    for name in other.silenced:
        assert torch.equal(one.silenced[name], other.silenced[name])
        assert torch.equal(one.scores[name], other.scores[name])


@pytest.mark.parametrize(
    "change",
    ["nothing", "tuning", "weight", "mean", "act", "images", "seed", "precision", "eps", "fast"],
)
def test_what_was_kept_is_used_for_the_same_ranking_alone(change, tmp_path, monkeypatch):
    def normalised(act: type[nn.Module] = nn.ReLU) -> nn.Module:
        model = noisy_net(act)
        model.register_buffer("mean", torch.zeros(1), persistent=False)
        return model

    run = replace(RUN, cache=tmp_path)
    fields = {"p": 3, "epochs": 0, "ranking_images": 8}
    FMP(**fields).repair(normalised(), noise(), run)
    names = ranked(monkeypatch)
    monkeypatch.setattr(Ranker, "race", Ranker.rank)
    model = normalised(nn.GELU if change == "act" else nn.ReLU)
    with torch.no_grad():
        model[7].weight[0, 0] += change == "weight"
        model.mean += change == "mean"
    clean = noise()
    clean.pixels[:, 0, 0, 0] ^= change == "images"
    run = replace(
        run,
        seed=int(change == "seed"),
        precision="bf16" if change == "precision" else "fp32",
    )
    fields |= {"eps": {"eps": 0.05}, "fast": {"fast": True}, "tuning": {"epochs": 1}}.get(
        change, {}
    )
    FMP(**fields).repair(model, clean, run)
    assert names == ([] if change in ("nothing", "tuning") else ["0", "3"])


def test_what_cannot_be_repaired_is_refused():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match="no convolution"):
        FMP(epochs=0).repair(flat, noise(), RUN)
    twice = nn.Conv2d(3, 3, 3, padding=1)
    model = nn.Sequential(twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(192, 3))
    with pytest.raises(ModelError, match="'0' is called twice"):
        FMP(epochs=0).repair(model, noise(), RUN)
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
