"""fit(): the schedule, the crops, resuming bit for bit, and what it leaves behind."""

from __future__ import annotations

import copy
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbackdoor.core.errors import CheckpointError, ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.training import fit as module
from unbackdoor.training.fit import (
    augment,
    cosine,
    cross_entropy,
    estimate_norms_,
    fit,
    read_state,
)

RUN = Run(precision="fp32")


def images(n: int = 20) -> Images:
    rng = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (n, 3, 8, 8), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(n) % 3, ("a", "b", "c"))


def net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5)),
            *(nn.Flatten(), nn.Linear(144, 3)),
        )


def same(one: nn.Module, two: nn.Module) -> bool:
    other = two.state_dict()
    return all(torch.equal(value, other[key]) for key, value in one.state_dict().items())


def test_cosine():
    assert [cosine(step, 4) for step in (0, 1, 2, 3, 4)] == pytest.approx(
        [1, 0.853553, 0.5, 0.146447, 0], abs=1e-6
    )


def test_the_rate_of_every_step_is_the_cosine_of_its_place():
    rates: list[float] = []

    class Watched(torch.optim.SGD):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    fit(
        net(), images(20), RUN, epochs=2, lr=9.9, batch=8,
        optimizer=lambda parameters: Watched(parameters, lr=0.2),
    )  # fmt: skip
    assert rates == pytest.approx([0.2 * cosine(step, 6) for step in range(6)])


def test_one_step_by_hand():
    """One weight, loss w * 1: after a step w = 1 - lr * (1 + weight_decay * 1)."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    fit(
        model, images(1), RUN, epochs=1, lr=0.1, weight_decay=0.5, batch=1, crop=False,
        objective=lambda model, x, y: model.weight.sum(),
    )  # fmt: skip
    assert model.weight.item() == pytest.approx(1 - 0.1 * 1.5)


def test_smoothed_cross_entropy_by_hand():
    """Logits (ln 3, 0): probabilities 3/4 and 1/4; smoothing 0.2 mixes 0.9 and 0.1 of them."""
    logits = torch.tensor([[3.0, 1.0]]).log()
    y = torch.tensor([0])
    plain = cross_entropy()(nn.Identity(), logits, y)
    mixed = cross_entropy(0.2)(nn.Identity(), logits, y)
    probabilities = torch.tensor([0.75, 0.25])
    assert plain.item() == pytest.approx(-probabilities[0].log().item())
    expected = -(0.9 * probabilities[0].log() + 0.1 * probabilities[1].log())
    assert mixed.item() == pytest.approx(expected.item())


def test_every_crop_is_the_window_its_generator_names():
    n, h, w = 6, 16, 12
    pad = 2  # an eighth of the height
    x = torch.rand(n, 3, h, w, generator=torch.Generator().manual_seed(1))
    found = augment(x, torch.Generator().manual_seed(7), flip=False)
    same_draws = torch.Generator().manual_seed(7)
    dy, dx = torch.randint(0, 2 * pad + 1, (2, n), generator=same_draws)
    assert len(set(zip(dy.tolist(), dx.tolist(), strict=True))) > 1
    for image, crop, top, left in zip(x, found, dy, dx, strict=True):
        padded = F.pad(image, (pad, pad, pad, pad))
        assert torch.equal(crop, padded[:, top : top + h, left : left + w])


def test_flips_mirror_some_images_and_change_nothing_else():
    x = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    plain = augment(x, torch.Generator().manual_seed(3), flip=False)
    mixed = augment(x, torch.Generator().manual_seed(3), flip=True)
    flipped = [torch.equal(a, b.flip(-1)) for a, b in zip(mixed, plain, strict=True)]
    kept = [torch.equal(a, b) for a, b in zip(mixed, plain, strict=True)]
    assert [a != b for a, b in zip(flipped, kept, strict=True)] == [True] * 32
    assert 5 < sum(flipped) < 27


class _StoppedError(Exception):
    pass


def test_resuming_gives_the_same_bits(tmp_path: Path):
    whole = net()
    fit(whole, images(), RUN, epochs=4, lr=0.05, batch=8)

    def stop_in_third_epoch(stage: str, done: int, total: int) -> None:
        if done == 8:
            raise _StoppedError

    halted = net()
    state = tmp_path / "folder" / "state.pt"
    arguments = {"epochs": 4, "lr": 0.05, "batch": 8, "resume": state}
    with pytest.raises(_StoppedError):
        fit(halted, images(), Run(precision="fp32", progress=stop_in_third_epoch), **arguments)
    steps: list[tuple[int, int]] = []
    resumed = net()
    watching = Run(precision="fp32", progress=lambda _, done, total: steps.append((done, total)))
    fit(resumed, images(), watching, **arguments)
    assert same(resumed, whole)
    assert steps[0] == (6, 12) and steps[-1] == (12, 12)
    assert [path.name for path in state.parent.iterdir()] == ["state.pt"]

    done = net()
    fit(done, images(), RUN, **arguments)  # nothing is left to do
    assert same(done, whole)


@pytest.mark.parametrize(
    ("seconds", "epochs", "lasting"),  # that pass in an epoch; those that are saved, and synced
    [(0, [5], [False]), (8, [3, 5], [True, True]), (30, [1, 2, 3, 4, 5], [True] * 5)],
)
def test_the_state_is_saved_now_and_then_and_at_the_end(
    tmp_path, monkeypatch, seconds, epochs, lasting
):
    now, saved, synced = [0.0], [], []
    save = module.whole
    monkeypatch.setattr(module, "PAUSE", 20.0)
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(
        module, "whole", lambda path, *, lasting: synced.append(lasting) or save(path)
    )
    monkeypatch.setattr(torch, "save", lambda state, _: saved.append(state["epoch"]))

    def epoch(stage: str, done: int, total: int) -> None:
        now[0] += seconds * (done > 0)

    watched = Run(precision="fp32", progress=epoch)
    fit(net(), images(8), watched, epochs=5, lr=0.05, batch=8, resume=tmp_path / "state.pt")
    assert (saved, synced) == (epochs, lasting)


def test_a_damaged_state_is_told_of_and_nothing_is_trained(tmp_path: Path):
    state = tmp_path / "state.pt"
    arguments = {"epochs": 1, "lr": 0.05, "batch": 8, "resume": state}
    fit(net(), images(), RUN, **arguments)
    whole, untrained = state.read_bytes(), net()
    for end in (0, 1, len(whole) // 2, len(whole) - 1):
        state.write_bytes(whole[:end])
        with pytest.raises(CheckpointError, match=r"state\.pt is damaged; .* --force"):
            fit(untrained, images(), RUN, **arguments)
    torch.save({"epoch": 1}, state)
    with pytest.raises(CheckpointError, match="is damaged"):
        fit(untrained, images(), RUN, **arguments)
    state.write_bytes(whole)
    with pytest.raises(CheckpointError, match="of another training; delete it"):
        fit(nn.Sequential(nn.Flatten(), nn.Linear(192, 3)), images(), RUN, **arguments)
    assert same(untrained, net())


def test_same_seed_same_bits_and_no_global_draw():
    before = torch.get_rng_state()
    one, two, other = net(), net(), net()
    fit(one, images(), RUN, epochs=1, lr=0.05, batch=8)
    assert torch.equal(torch.get_rng_state(), before)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        fit(two, images(), RUN, epochs=1, lr=0.05, batch=8)
    fit(other, images(), Run(seed=1, precision="fp32"), epochs=1, lr=0.05, batch=8)
    assert same(one, two) and not same(one, other)


def test_divergence_is_an_error():
    with pytest.raises(ModelError, match=r"training diverged in epoch 1: the loss is (nan|inf)"):
        fit(
            nn.Sequential(nn.Flatten(), nn.Linear(192, 3)),
            images(),
            RUN,
            epochs=3,
            lr=1e38,
            batch=4,
        )


def test_after_step_sees_the_model_once_a_step():
    seen: list[Tensor] = []
    model = net()

    def keep(given: nn.Module) -> None:
        assert given is model
        seen.append(given[0].weight.detach().clone())

    fit(model, images(20), RUN, epochs=2, lr=0.05, batch=8, after_step=keep)
    assert len(seen) == 6
    assert all(not torch.equal(a, b) for a, b in pairwise(seen))
    assert torch.equal(seen[-1], model[0].weight)


def test_modes_come_back_and_frozen_parameters_stay():
    model = net().eval()
    model[3].train()
    model[0].weight.requires_grad_(False)
    before = copy.deepcopy(model)
    modes: list[bool] = []
    fit(
        model, images(), RUN, epochs=1, lr=0.05, batch=8,
        after_step=lambda given: modes.append(all(module.training for module in given.modules())),
    )  # fmt: skip
    assert all(modes)
    assert [module.training for module in model] == [module.training for module in before]
    assert torch.equal(model[0].weight, before[0].weight)
    assert not torch.equal(model[5].weight, before[5].weight)


def test_no_epochs_change_nothing():
    model = net()
    fit(model, images(), RUN, epochs=0, lr=0.1)
    assert same(model, net())


def test_statistics_of_norms_are_estimated_anew():
    net = nn.Sequential(nn.BatchNorm2d(1))
    net[0].running_mean.fill_(7)
    net[0].num_batches_tracked.fill_(9)
    pixels = torch.tensor([0, 255, 0, 255], dtype=torch.uint8).view(4, 1, 1, 1)
    images = Images(pixels.expand(4, 1, 2, 2).contiguous(), torch.zeros(4).long(), ("a",))
    estimate_norms_(net, images, Run(), batch=4, flip=True)
    assert net[0].running_mean.item() == 0.5
    assert net[0].momentum == 0.1


def test_statistics_of_norms_are_of_images_as_they_are_trained_on():
    net = nn.Sequential(nn.BatchNorm2d(1))
    white = Images(torch.full((64, 1, 8, 8), 255, dtype=torch.uint8), torch.zeros(64).long(), "a")
    estimate_norms_(net, white, Run(), batch=64, flip=True)
    inside = (1 - 2 / 3 / 8) ** 2  # two of three offsets leave out a row, or a column
    assert net[0].running_mean.item() == pytest.approx(inside, abs=0.02)


def test_a_state_is_read_on_a_machine_without_the_device_of_the_training(tmp_path, monkeypatch):
    asked, load = [], torch.load
    torch.save({"model": {}, "optimizer": {}, "epoch": 1}, tmp_path / "state.pt")
    monkeypatch.setattr(torch, "load", lambda *a, **told: asked.append(told) or load(*a, **told))
    assert read_state(tmp_path / "state.pt")["epoch"] == 1
    assert asked[0]["map_location"] == "cpu"
