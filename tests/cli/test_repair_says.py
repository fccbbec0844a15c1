"""What `repair` says beforehand, and of the answers before and after."""

from __future__ import annotations

import re

import torch
from torch import nn

from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.defenses.uat import UAT
from unbackdoor.models import Normalized
from unbackdoor.network.norms import keeps_statistics


def test_it_says_how_long_it_may_take_and_that_nothing_tells_of_the_images(
    run, tiny, tmp_path, monkeypatch
):
    from unbackdoor.defenses.fine_tuning import FineTuning

    told = ("repair", tiny.model, "--clean", tiny.clean, "--out")
    images = []
    work = FineTuning.work
    monkeypatch.setattr(FineTuning, "judges", lambda self, images: images - 5)
    monkeypatch.setattr(
        FineTuning, "work", lambda self, n, classes: images.append(n) or work(self, n, classes)
    )
    done = run(*told, tmp_path / "one", "--defense", "fine_tuning", "-p", "epochs=1")
    assert "clean images; about a minute or less" in done.err and images == [5]
    assert "no batch norm" not in done.err
    monkeypatch.setattr("unbackdoor.network.norms.keeps_statistics", lambda _: False)
    hours = run(*told, tmp_path / "two", "--defense", "clp")
    assert "repairing with clp" in hours.err and "; about" not in hours.err  # nobody knows
    assert hours.err.count("no batch norm of the model keeps statistics") == 1


def test_of_a_long_repair_it_says_what_takes_less(run, tiny, tmp_path, monkeypatch):
    from unbackdoor.cli import repairing

    told = ("repair", tiny.model, "--clean", tiny.clean, "--out")
    quick = ("-p", "enough_images=9", "-p", "batch=9", "-p", "epochs=1", "-p", "settling=0")
    monkeypatch.setattr(repairing, "seconds_of_step", lambda model, x, run: 60.0)
    monkeypatch.setattr(UAT, "repair", lambda self, model, clean, run: Repair(model))
    slow = run(*told, tmp_path / "slow", "--defense", "uat")
    hours, minutes = re.search(
        r"about (\d+) minutes \(-p enough_images=1000 -p batch=25 -p epochs=4 -p settling=2: "
        r"about (\d+), and a worse repair\)",
        slow.err,
    ).groups()
    assert int(minutes) < int(hours) / 2
    assert "worse repair" not in run(*told, tmp_path / "quick", *quick).err
    assert "worse repair" not in run(*told, tmp_path / "other", "--defense", "fine_tuning").err


def test_norms_that_keep_nothing_tell_nothing():
    assert keeps_statistics(nn.Sequential(nn.BatchNorm2d(1)))
    assert not keeps_statistics(nn.BatchNorm2d(1, track_running_stats=False))
    assert not keeps_statistics(nn.Sequential(nn.GroupNorm(1, 1)))


class Level(nn.Module):
    """Answers the first pixel's level, plus one for levels from `moved` on."""

    def __init__(self, moved):
        super().__init__()
        self.moved = moved

    def forward(self, x):
        level = (x[:, 0, 0, 0] * 255).round().long()
        return nn.functional.one_hot((level + (level >= self.moved)).clamp(max=3), 4).float()


def test_agreement_counts_the_same_answers_right_or_wrong():
    from unbackdoor.cli.console import Console
    from unbackdoor.cli.repairing import Case, treat
    from unbackdoor.defenses.base.defense import Repair
    from unbackdoor.defenses.fine_tuning import FineTuning

    levels = torch.arange(4).repeat(2)
    pixels = levels.to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 2, 2).contiguous()
    given = Images(pixels, (levels + 1) % 4, ("a", "b", "c", "d"))
    spec = Spec("own", given.classes, (0.0,), (1.0,))
    before, after = (Normalized(Level(moved), spec) for moved in (9, 2))

    class Moves(FineTuning):
        def repair(self, model, clean, run):
            return Repair(after)

    with Console(quiet=True) as console:
        found = treat(Case(before, given, given, "these", None), Moves(epochs=0), Run(), console)
    assert (found.before.acc.hits, found.after.acc.hits) == (0, 2)  # 2 is told as 3
    assert (found.agreement.hits, found.agreement.total) == (6, 8)
