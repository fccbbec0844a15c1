"""Clean images that come from elsewhere, or that the attacker got at."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.attack import Attack
from unbackdoor.attacks.multi_target import MultiTarget
from unbackdoor.attacks.semantic import Semantic
from unbackdoor.bench import grid
from unbackdoor.bench.clean_sets import CleanSet
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.run import Bench
from unbackdoor.bench.shelf import Shelf
from unbackdoor.core.errors import ImagesError, ParameterError, UnbackdoorWarning
from unbackdoor.core.images import Images, overlap, to_float
from unbackdoor.core.run import Run
from unbackdoor.report import results

from .conftest import noise

CLASSES = ("ant", "bee", "cat", "dog")


def images(n: int = 200) -> Images:
    rng = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (n, 3, 4, 4), generator=rng, dtype=torch.uint8)
    pixels = coarse.repeat_interleave(4, 2).repeat_interleave(4, 3)
    return Images(pixels, torch.arange(n) % 4, CLASSES)


def made(**fields: object) -> Images:
    return CleanSet(name="x", **fields).made(images(), BadNets(target=2), {}, Run())


def changed(found: Images) -> int:
    return int((found.pixels != images().pixels).flatten(1).any(1).sum())


def test_by_default_nothing_differs() -> None:
    found = made()
    assert torch.equal(found.pixels, images().pixels)
    assert torch.equal(found.labels, images().labels)


def test_some_are_stamped_with_the_attackers_label_others_mislabelled() -> None:
    given, found = images(), made(stamped=0.1, mislabelled=0.05)
    stamped = (found.pixels != given.pixels).flatten(1).any(1)
    assert int(stamped.sum()) == 20 and (found.labels[stamped] == 2).all()
    assert (found.pixels[stamped][:, :, -3:, -3:] == 255).all()
    wrong = (found.labels != given.labels) & ~stamped
    assert int(wrong.sum()) == 10 and len(set(found.labels[wrong].tolist())) > 1


@pytest.mark.parametrize(
    ("attack", "true", "goals"),
    [
        (BadNets(target=2), {0, 1, 3}, {2}),
        (BadNets(target=2, sources=(3,)), {3}, {2}),
        (BadNets(target={1: 2, 3: 0}), {1, 3}, {0, 2}),
        (MultiTarget(targets=(1, 3), size=3), {0, 1, 2, 3}, {1, 3}),
        (Semantic(bound=0.5), {1, 2, 3}, {0}),
    ],
    ids=["plain", "sources", "map", "several", "semantic"],
)
def test_stamped_images_are_those_that_the_attacker_triggers(
    attack: Attack, true: set[int], goals: set[int]
) -> None:
    given = images()
    found = CleanSet(name="x", stamped=0.1).made(given, attack, {}, Run())
    changed = found.labels != given.labels
    # An image of the goal class would count towards the share and poison nothing.
    assert int(changed.sum()) == 20
    assert set(given.labels[changed].tolist()) == true
    assert set(found.labels[changed].tolist()) == goals
    whole = attack.triggered(given[changed])
    assert torch.equal(found.pixels[changed], whole.images.pixels)
    assert torch.equal(found.labels[changed], whole.goals)
    assert torch.equal(found.pixels[~changed], given.pixels[~changed])
    if isinstance(attack, Semantic):
        assert bool(attack.has(to_float(given.pixels[changed])).all())


def test_a_share_of_few_images_is_one_of_them() -> None:
    few = images(40)
    for fields in ({"stamped": 0.01}, {"mislabelled": 0.01}):
        found = CleanSet(name="x", **fields).made(few, BadNets(target=2), {}, Run())
        assert int((found.labels != few.labels).sum()) == 1


def test_fewer_triggered_images_than_were_asked_for_are_told_of() -> None:
    attack = BadNets(target=2, sources=(3,))
    with pytest.warns(UnbackdoorWarning, match="set x wants 100 triggered images; only 50 of 200"):
        found = CleanSet(name="x", stamped=0.5).made(images(), attack, {}, Run())
    assert int((found.labels != images().labels).sum()) == 50


def test_a_crop_that_leaves_nothing_is_told_in_a_line() -> None:
    with pytest.raises(ParameterError, match=r"^clean set x: crop = 8 leaves nothing of 16x16$"):
        made(crop=8)
    assert made(crop=7).shape == (3, 16, 16)


def test_a_model_without_an_attack_has_no_stamp() -> None:
    found = CleanSet(name="x", stamped=0.5).made(images(), None, {}, Run())
    assert changed(found) == 0


@pytest.mark.parametrize("fields", [{"blur": 1.0}, {"crop": 2}, {"jpeg": 30}])
def test_a_shift_changes_all_images_a_little_and_no_label(fields: dict[str, float]) -> None:
    found = made(**fields)
    assert changed(found) == 200 and torch.equal(found.labels, images().labels)
    assert found.pixels.shape == images().pixels.shape and found.pixels.dtype == torch.uint8
    apart = (found.pixels.float() - images().pixels.float()).abs().mean()
    assert 1 < apart < 60


def test_a_crop_shows_the_middle() -> None:
    found = made(crop=4)
    # The middle half, enlarged twice: far from its edges it shows the inner four squares.
    assert torch.equal(found.pixels[..., 1:3, 1:3], images().pixels[..., 4:6, 4:6])


def test_stronger_jpeg_and_blur_are_further_off() -> None:
    def apart(**fields: object) -> float:
        return (made(**fields).pixels.float() - images().pixels.float()).square().mean().item()

    assert apart(jpeg=10) > apart(jpeg=90)
    assert apart(blur=2.0) > apart(blur=0.7)


def test_grey_images_go_through_jpeg_as_grey() -> None:
    grey = Images(images().pixels[:, :1].contiguous(), images().labels, CLASSES)
    found = CleanSet(name="x", jpeg=50).made(grey, None, {}, Run())
    assert found.pixels.shape == grey.pixels.shape


def test_shares_are_shares() -> None:
    with pytest.raises(ValidationError, match="less than or equal to 1"):
        CleanSet(name="x", stamped=2)


@pytest.fixture
def asked(tmp_path):
    sources = {
        "name": "noise",
        "train": str(noise(tmp_path / "train.npz", 30, 1)),
        "test": str(noise(tmp_path / "test.npz", 12, 2)),
    }
    return grid.Grid.model_validate(
        {
            "data": [sources],
            "architectures": [{"name": "preact_resnet18", "width": 2}],
            "attacks": [{"name": "badnets", "size": 2}],
            "defenses": ["fine_tuning"],
            "budgets": [20],
            "seeds": [0],
            "training": {"epochs": 1, "batch": 10},
            "tuning": {"epochs": 1, "batch": 10},
            "clean": [{"name": "poisoned", "stamped": 0.2}, {"name": "blurred", "blur": 1.0}],
        }
    )


def test_a_crop_of_all_is_refused_where_the_grid_tells_the_size(asked) -> None:
    sized = {**asked.data[0], "size": 16}
    with pytest.raises(ParameterError, match="crop = 8 leaves nothing"):
        grid.cells(asked.model_copy(update={"data": [sized], "clean": [{"name": "x", "crop": 8}]}))


def test_a_grid_tries_each_defense_on_each_set(asked, tmp_path) -> None:
    cells = grid.cells(asked)
    clean = {(cell.victim.attack is None, (cell.clean or {}).get("name")) for cell in cells}
    # Without an attack there is no stamp to poison with.
    assert clean == {(True, None), (True, "blurred"), (False, None)} | {
        (False, name) for name in ("blurred", "poisoned")
    }
    assert len({cell.id for cell in cells}) == len(cells) == 5
    plain = next(cell for cell in cells if not cell.clean)
    assert "clean" not in plain.declaration()  # so what was done before stays done
    bench = Bench(tmp_path / "out", "cpu")
    Plan(cells, bench.store).write()
    labels = {
        "fine_tuning clean.stamped=0.2",
        "fine_tuning clean.blur=1.0",
        "fine_tuning",
    }
    assert {row.defense for row in results.read(tmp_path / "out").rows} >= labels
    found = {cell.title: bench.cell(cell)[0] for cell in cells if cell.victim.attack}
    assert all(record["status"] == "done" for record in found.values())
    assert len(found) == 3
    assert {row.defense for row in results.read(tmp_path / "out").rows} >= labels


def drawn(asked, tmp_path, **fields: object) -> tuple[Images, Shelf, dict[str, Any]]:
    """What a defender gets of a clean set with these `fields`, all images, and its declaration."""
    data = [{**asked.data[0], "reserve": 0.4}]
    told = {"data": data, "clean": [{"name": "x", **fields}], "budgets": [12]}
    every = grid.cells(asked.model_copy(update=told), tmp_path)
    (cell,) = (cell for cell in every if cell.victim.attack and cell.clean)
    bench = Bench(tmp_path / "out", "cpu")
    shelf = bench.shelf(cell.victim)
    assert cell.clean
    return bench._drawn(cell, shelf, Run()), shelf, cell.clean


def test_what_is_not_set_is_no_part_of_the_identity(asked, tmp_path) -> None:
    old = {"name": "x", "blur": 1.0, "crop": 0, "jpeg": None, "stamped": 0.0, "mislabelled": 0.0}
    assert drawn(asked, tmp_path, blur=1.0, budget=10)[2] == old
    assert drawn(asked, tmp_path, blur=1.0, seen=True)[2] == {**old, "seen": True}


def test_images_may_be_those_that_the_victim_was_trained_on(asked, tmp_path) -> None:
    usual, shelf, _ = drawn(asked, tmp_path, blur=1.0)
    seen = drawn(asked, tmp_path, seen=True)[0]
    assert len(usual) == len(seen) == 12
    assert overlap(usual, shelf.train) == 0 and overlap(seen, shelf.train) == 12


def test_images_may_come_from_another_file(asked, tmp_path, monkeypatch) -> None:
    (tmp_path / "elsewhere").mkdir()
    noise(tmp_path / "elsewhere" / "other.npz", 14, 3)
    monkeypatch.setenv("OTHERS", "elsewhere")
    found, shelf, told = drawn(asked, tmp_path, source="$OTHERS/other.npz")
    assert told["source"] == "$OTHERS/other.npz"  # the text, wherever the folder is
    assert len(found) == 12 and found.classes == shelf.test.classes
    assert overlap(found, shelf.every) == overlap(found, shelf.test) == 0
    few = drawn(asked, tmp_path, source="$OTHERS/other.npz", budget=5)[0]
    assert torch.equal(few.pixels, found.pixels[:5])
    with pytest.raises(ImagesError, match="a budget of 15 is 15 clean images; there are 14"):
        drawn(asked, tmp_path, source="$OTHERS/other.npz", budget=15)


def test_images_of_another_file_were_not_seen() -> None:
    with pytest.raises(ValidationError, match="give one of them"):
        CleanSet(name="x", source="other.npz", seen=True)


def test_the_defense_gets_the_set_that_was_asked_for(asked, tmp_path, monkeypatch) -> None:
    from unbackdoor.defenses.fine_tuning import FineTuning

    given: dict[str, Images] = {}
    whole = FineTuning.repair

    def repair(self, model, clean, run):
        given[str(len(given))] = clean
        return whole(self, model, clean, run)

    monkeypatch.setattr(FineTuning, "repair", repair)
    bench = Bench(tmp_path / "out", "cpu")
    leak = {"name": "leak", "source": asked.data[0]["test"], "blur": 1.0, "budget": 10}
    flags = []
    for cell in grid.cells(asked.model_copy(update={"clean": [*asked.clean, leak]})):
        if cell.victim.attack:
            flags.append(bench.cell(cell)[0]["flags"])
    plain, poisoned, blurred, _ = given.values()
    # Test images are told by what they were before they were changed.
    assert ["leak" in each for each in flags] == [False, False, False, True]
    stamped = (plain.pixels != poisoned.pixels).flatten(1).any(1)
    assert int(stamped.sum()) == 4 and (poisoned.labels[stamped] == 0).all()
    assert torch.equal(plain.labels, blurred.labels) and not plain.pixels.equal(blurred.pixels)
