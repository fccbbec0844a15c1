"""Run: seeds by purpose, precision, progress."""

from __future__ import annotations

import pytest
import torch

from unbackdoor.core.errors import ParameterError
from unbackdoor.core.run import Run, pick_device


def draw(run: Run, name: str) -> torch.Tensor:
    return torch.rand(8, generator=run.rng(name))


def test_same_seed_and_name_same_bits_whatever_was_drawn_before():
    run = Run(seed=3)
    first = draw(run, "a")
    draw(run, "b")
    assert torch.equal(draw(run, "a"), first)
    assert torch.equal(draw(Run(seed=3), "a"), first)


def test_names_and_seeds_are_independent():
    draws = [draw(Run(seed=seed), name) for seed in (0, 1, 11) for name in ("a", "b", "1/a")]
    assert len({tuple(values.tolist()) for values in draws}) == 9


def test_the_bits_are_pinned():
    """A change here changes every recorded result."""
    seeds = {Run(seed=seed).rng(name).initial_seed() for seed in (0, 1) for name in ("a", "b")}
    assert len(seeds) == 4 and all(0 <= seed < 2**56 for seed in seeds)
    assert Run(seed=0).rng("a").initial_seed() == 61951764100404184


def test_isolated_seeds_and_restores_the_global_state():
    run = Run(seed=0)
    before = torch.get_rng_state()
    with run.isolated("a"):
        one = torch.rand(4)
    with run.isolated("a"):
        two = torch.rand(4)
    with run.isolated("b"):
        other = torch.rand(4)
    with pytest.raises(KeyError), run.isolated("a"):
        torch.rand(1)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_stages_tell_and_time():
    told: list[tuple[str, int, int]] = []
    run = Run(progress=lambda *step: told.append(step))
    with run.stage("work", 5) as advance:
        advance(2)
        advance(3)
    assert told == [("work", 0, 5), ("work", 2, 5), ("work", 5, 5)]
    first = run.seconds["work"]
    with pytest.raises(KeyError), run.stage("work", 1):
        raise KeyError
    assert run.seconds["work"] > first >= 0
    with run.stage("work", 5, done=3) as advance:
        advance(1)
    assert told[-2:] == [("work", 3, 5), ("work", 4, 5)]


@pytest.mark.parametrize(
    ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_precision_decides_what_a_pass_runs_in(precision, dtype):
    run = Run(precision=precision)
    with run.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == dtype
    assert run.dtype == dtype


def test_devices():
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    with pytest.raises(ParameterError, match="one of auto, cpu, cuda, mps; got 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(ParameterError, match="no usable cuda"):
            pick_device("cuda:1")


def test_a_device_may_be_named():
    assert Run(device="cpu").device == torch.device("cpu")
