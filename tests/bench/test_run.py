from __future__ import annotations

import itertools

import pytest
import torch

from unbackdoor.bench import grid, victims
from unbackdoor.bench.engines import local
from unbackdoor.bench.plan import Plan
from unbackdoor.bench.run import Bench
from unbackdoor.core.errors import ImagesError, OutputError, ParameterError
from unbackdoor.core.images import overlap
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.fmp import FMP


def quiet(*_: object) -> None:
    pass


def worked(bench, cells):
    ran = []
    local.work(bench, cells, lambda cell, record, ours: ran.append((cell, record, ours)), quiet)
    return ran


def numbers(record):
    """What must be the same again: all but times and what the machine is."""
    fleeting = ("spent", "seconds", "started", "peak_mib", "machine", "versions")
    return {key: value for key, value in record.items() if key not in fleeting}


def test_each_victim_is_planted_once_and_each_cell_done_once(bench, tiny, monkeypatch):
    planted = []
    plant = victims.plant
    monkeypatch.setattr(victims, "plant", lambda *a: planted.append(a[0].id) or plant(*a))
    cells = grid.cells(tiny())
    ran = worked(bench, cells)
    assert len(ran) == 4 and all(ours for *_, ours in ran)
    assert [record["status"] for _, record, _ in ran] == ["done"] * 4
    assert len(planted) == len(set(planted)) == 2
    again = worked(bench, cells)
    assert not any(ours for *_, ours in again) and len(planted) == 2
    assert [record for _, record, _ in again] == [record for _, record, _ in ran]


def test_a_result_tells_what_was_done_and_measured(bench, tiny):
    (_, record, _), *_ = worked(bench, grid.chosen(grid.cells(tiny()), "badnets*fmp"))
    assert record["cell"]["defense"]["p"] == 2 and record["defense"]["paper"]
    assert record["before"]["acc"]["total"] == record["after"]["acc"]["total"] == 12
    assert record["after"]["asr"]["total"] == 8  # two of three classes are not the target
    assert record["images"] == {
        **{"train": 30, "test": 12, "stamped": 8, "clean": 12, "clean_in_test": 0}
    }
    assert sum(len(layer["silenced"]) for layer in record["layers"]) > 0
    assert record["spent"]["all"] >= record["spent"]["repair"] > 0
    victim = bench.store.read("victims", record["victim"])
    assert victim["score"] == record["before"] and victim["examples"][0]["png"]["stamped"]
    assert {"undertrained-victim"} <= set(victim["flags"]) <= set(record["flags"])
    assert not (bench.folder / "begun" / record["id"]).exists()


def test_the_same_numbers_come_out_in_any_order_and_company(bench, tiny, tmp_path):
    cells = grid.cells(tiny())
    first = {cell.id: record for cell, record, _ in worked(bench, cells)}
    other = Bench(tmp_path / "other", "cpu", 1)
    for cell in reversed(cells):
        (_, record, _), *_ = worked(other, [cell])
        assert numbers(record) == numbers(first[cell.id])


def test_a_defense_sees_clean_images_of_the_budget_and_nothing_else(bench, tiny, monkeypatch):
    seen = []
    repair = FineTuning.repair

    def spying(self, model, clean, run):
        seen.extend((clean, run))
        return repair(self, model, clean, run)

    monkeypatch.setattr(FineTuning, "repair", spying)
    worked(bench, grid.chosen(grid.cells(tiny()), "badnets*fine_tuning"))
    clean, run = seen
    victim = next(cell.victim for cell in grid.cells(tiny()) if cell.victim.attack)
    images = bench.shelf(victim)
    known = {image.numpy().tobytes() for image in images.train.pixels}
    assert len(clean) == 12 and all(image.numpy().tobytes() in known for image in clean.pixels)
    stamped = victims.attack_of(victim).triggered(images.test).images
    hidden = {image.numpy().tobytes() for part in (stamped, images.test) for image in part.pixels}
    assert not any(image.numpy().tobytes() in hidden for image in clean.pixels)
    assert run.cache == bench.folder / "begun" / run.cache.name and not run.cache.exists()


def test_a_failure_is_a_result_with_its_traceback(bench, tiny, monkeypatch):
    def broken(self, model, clean, run):
        raise ZeroDivisionError("on the third layer")

    monkeypatch.setattr(FMP, "mend", broken)
    cells = grid.chosen(grid.cells(tiny()), "badnets")
    by_name = {cell.defense["name"]: record for cell, record, _ in worked(bench, cells)}
    assert by_name["fine_tuning"]["status"] == "done"
    failed = by_name["fmp"]
    assert failed["status"] == "failed" and failed["error"].startswith("ZeroDivisionError: on the")
    assert "in broken" in failed["traceback"] and 'File "unbackdoor/' in failed["traceback"]
    monkeypatch.undo()
    assert worked(bench, cells)[1][1:] == (failed, False)


def test_the_cells_of_a_victim_that_fails_fail(bench, tiny):
    bad = {"name": "badnets", "size": 2, "target": 9}
    cells = grid.chosen(grid.cells(tiny(attacks=[bad])), "badnets")
    ran = worked(bench, cells)
    assert [record["status"] for _, record, _ in ran] == ["failed", "failed"]
    assert "target 9 is not one of 3 classes" in ran[0][1]["error"]


def test_what_a_person_must_mend_stops_the_bench(bench, tiny, sources, monkeypatch):
    lost = grid.cells(tiny(data=[{**sources, "train": "nowhere.npz"}]))
    with pytest.raises(ImagesError, match=r"nowhere\.npz"):
        worked(bench, lost)
    assert not list(bench.store.all("cells"))

    def full(*_: object) -> None:
        raise OutputError("disk full")

    monkeypatch.setattr(victims, "plant", full)
    with pytest.raises(OutputError, match="disk full"):
        worked(bench, grid.cells(tiny()))


def test_what_is_doubtful_is_flagged(bench, tiny, sources, tmp_path):
    still = {"name": "fine_tuning", "epochs": 0}
    leaky = {**sources, "test": sources["train"]}
    ran = worked(bench, grid.cells(tiny(defenses=[still], data=[leaky])))
    for _, record, _ in ran:
        assert {"unchanged", "leak", "undertrained-victim"} <= set(record["flags"])
        assert record["images"]["clean_in_test"] == 12
    attacked = next(record for _, record, _ in ran if record["after"]["asr"])
    assert "weak-victim" in attacked["flags"] or attacked["before"]["asr"]["value"] >= 0.9


def test_the_grid_that_asks_says_what_is_weak(bench, tiny):
    other = [{"name": "badnets", "size": 2, "target": 1}]
    low, high = (
        grid.chosen(grid.cells(tiny(attacks=other, min_asr=bound)), "badnets")
        for bound in (0.0, 0.9)
    )
    ((_, first, _),) = worked(bench, low[:1])
    ((_, second, _),) = worked(bench, high[1:])
    assert first["before"] == second["before"] and first["before"]["asr"]["value"] < 0.9
    assert "weak-victim" not in first["flags"] and "weak-victim" in second["flags"]


def test_what_was_resumed_says_nothing_of_the_time(bench, tiny):
    cells = grid.chosen(grid.cells(tiny()), "badnets*fine_tuning")
    (bench.folder / "begun" / cells[0].id).mkdir(parents=True)
    ((_, record, _),) = worked(bench, cells)
    assert record["spent"]["resumed"] and "passes" not in record["notes"]
    bench.store.remove("victims", cells[0].victim.id)
    assert Plan(grid.cells(tiny(seeds=[1])), bench.store).estimate().seconds == 0


def test_a_share_of_one_file_judges_and_nobody_else_sees_it(bench, tiny, sources):
    one = {"name": "noise", "train": sources["train"], "judge": 0.4, "reserve": 0.5}
    (cell,) = grid.chosen(grid.cells(tiny(data=[one], budgets=[9])), "badnets*fine_tuning")
    shelf = bench.shelf(cell.victim)
    assert [len(part) for part in (shelf.test, shelf.train, shelf.pool, shelf.every)] == [
        12,
        9,
        9,
        18,
    ]
    parts = (shelf.test, shelf.train, shelf.pool)
    assert [overlap(a, b) for a, b in itertools.combinations(parts, 2)] == [0, 0, 0]
    ((_, record, _),) = worked(bench, [cell])
    assert record["status"] == "done" and record["images"]["clean_in_test"] == 0
    assert "judge" not in grid.cells(tiny())[0].victim.data


def test_a_share_that_is_no_image_judges_nothing(bench, tiny, sources):
    one = {"name": "noise", "train": sources["train"], "judge": 0.001}
    with pytest.raises(ImagesError, match=r"judge = 0\.001 leaves 0 images"):
        bench.shelf(grid.cells(tiny(data=[one]))[0].victim)


@pytest.mark.parametrize("told", [{}, {"test": "x.npz", "judge": 0.2}])
def test_a_data_set_is_judged_in_one_way(tiny, sources, told):
    one = {"name": "noise", "train": sources["train"], **told}
    with pytest.raises(ParameterError, match="`test`, or `judge`"):
        grid.cells(tiny(data=[one]))


def test_a_reserve_is_kept_from_the_victim(bench, tiny, sources):
    half = {**sources, "reserve": 0.5}
    cell = grid.cells(tiny(data=[half]))[0]
    images = bench.shelf(cell.victim)
    theirs, ours = (
        {image.numpy().tobytes() for image in part.pixels} for part in (images.train, images.pool)
    )
    assert len(theirs) == len(ours) == 15 and not theirs & ours
    cells = grid.cells(tiny(data=[half], budgets=[16]))
    assert "there are 15" in worked(bench, cells[:1])[0][1]["error"]


def test_a_victim_s_record_tells_which_images_were_poisoned_and_of_other_sources(
    bench, tiny, sources
):
    half = {**sources, "reserve": 0.5}
    attack = {"name": "badnets", "size": 2, "sources": [[1]], "count": 2, "source_covers": 0.5}
    cells = grid.cells(tiny(data=[half], attacks=[attack], defenses=["clp"]))
    *_, (cell, record, _) = worked(bench, cells)
    victim, images = bench.store.read("victims", record["victim"]), bench.shelf(cell.victim)
    # Four of the twelve test images are of class 2, which is neither source nor goal.
    assert victim["asr_other_sources"]["total"] == 4
    rows = victim["indices"]
    assert [len(rows["stamped"]), len(rows["cover"])] == [2, 1]
    known = {image.numpy().tobytes() for image in images.train.pixels}
    for row in rows["stamped"] + rows["cover"]:
        assert images.every.pixels[row].numpy().tobytes() in known
    assert images.every.labels[rows["stamped"]].tolist() == [1, 1]


def test_budgets_lie_in_each_other(bench, tiny):
    from unbackdoor.core.run import Run

    images = bench.shelf(grid.cells(tiny())[0].victim)
    small, large = images.budget(5, Run(1)), images.budget(0.5, Run(1))
    assert len(large) == 15 and torch.equal(small.pixels, large.pixels[:5])


def test_a_linear_classifier_is_learned_once(bench, tiny, tmp_path):
    worked(bench, grid.cells(tiny(seeds=[0, 1]))[:2])
    assert len(list(bench.store.all("linear"))) == 1
    (found,) = bench.store.all("linear")
    assert found["total"] == 12 and 0 <= found["hits"] <= 12


def test_a_linear_classifier_finds_what_is_linear(tmp_path):
    from unbackdoor.bench.shelf import linear
    from unbackdoor.core.images import Images

    labels = torch.arange(40) % 2
    pixels = (labels * 100).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 40, 40)
    images = Images(pixels.contiguous(), labels, ("dark", "light"))
    assert linear(images, images).hits == 40


def test_weights_that_are_gone_are_made_again(bench, tiny):
    import shutil

    cells = grid.chosen(grid.cells(tiny()), "badnets")
    (_, first, _), *_ = worked(bench, cells[:1])
    shutil.rmtree(bench.store.victim(cells[0].victim.id))
    (_, second, ours), *_ = worked(bench, cells[1:])
    assert ours and second["status"] == "done" and second["before"] == first["before"]


def test_a_cell_whose_process_died_has_failed_and_says_nothing_of_the_time(bench, tiny):
    cells = grid.chosen(grid.cells(tiny()), "badnets*fine_tuning")
    record = bench.died(cells[0], "killed")
    assert record["status"] == "failed" and record["error"] == "WorkerDiedError: killed"
    plan = Plan(cells, bench.store)
    assert plan.pending == []
    assert plan.forget_failures() == 1 and plan.pending == cells
    bench.died(cells[0], "killed")
    assert Plan(grid.cells(tiny(seeds=[1])), bench.store).estimate().seconds == 0
