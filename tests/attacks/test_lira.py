"""LIRA: the bound of the change."""

import torch

from unbackdoor.attacks.base.controlled import fresh, weights
from unbackdoor.attacks.lira import LIRA
from unbackdoor.core.run import Run


def test_the_change_is_within_eps_and_reaches_it() -> None:
    attack = LIRA(eps=0.03, width=4)
    generator = fresh(lambda: attack._generator(3), Run(), "generator")
    # The last layer a hundred times as steep: nearly everywhere the bound is what holds.
    for parameter in generator[-1].parameters():
        parameter.data.mul_(100)
    x = torch.rand(4, 3, 16, 16, generator=Run().rng("x"))
    stamped = attack.trigger(weights(generator, "generator."))(x)
    change = (stamped - x).abs()
    assert change.max() <= 0.03 + 1e-6
    assert change.mean() > 0.01
    assert 0 <= stamped.min() <= stamped.max() <= 1
