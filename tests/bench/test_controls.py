"""Controls: how many channels they prune, which, and who sees the trigger."""

from __future__ import annotations

import pytest
import torch

from bench.test_run import worked
from defenses.samples import noise, noisy_net
from unbackdoor.bench import controls, grid, victims
from unbackdoor.bench.outcome import ControlFailedError
from unbackdoor.bench.plan import Plan
from unbackdoor.core.errors import ParameterError, UnbackdoorWarning, UnknownNameError
from unbackdoor.core.run import Run
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import find_layers
from unbackdoor.report import results, tables

FOLLOWING = [{"name": "random_pruning", "like": "fmp"}, {"name": "oracle", "p": 4}]


def silenced(record):
    return {layer["name"]: layer["silenced"] for layer in record["layers"]}


def by_name(ran):
    return {record["cell"]["defense"]["name"]: record for _, record, _ in ran}


def test_controls_stand_beside_defenses_and_change_none(tiny):
    plain = grid.cells(tiny())
    every = grid.cells(tiny(controls=FOLLOWING))
    assert {cell.id for cell in plain} < {cell.id for cell in every}
    more = [cell for cell in every if cell.id not in {found.id for found in plain}]
    # The oracle needs a trigger, so a clean model has none.
    assert [(cell.victim.attack is None, cell.method) for cell in more] == [
        *((True, "random_pruning like=fmp p=2 ranking_images=2"),),
        *((False, "random_pruning like=fmp p=2 ranking_images=2"), (False, "oracle p=4")),
    ]
    assert all(cell.defense["control"] and cell.defense["epochs"] == 1 for cell in more)


def test_random_pruning_takes_as_many_channels_of_each_layer(bench, tiny):
    cells = grid.cells(tiny(controls=FOLLOWING, measures=["coverage"]))
    (only,) = grid.chosen(cells, "badnets*random")
    ran = by_name(worked(bench, [only]))  # the defense that it follows is done first
    assert bench.store.has("cells", only.follows.id)
    one, other = silenced(ran["random_pruning"]), silenced(bench.store.read(*_of(only)))
    assert one.keys() == other.keys() and one != other
    assert [len(own) for own in one.values()] == [len(own) for own in other.values()]
    assert ran["random_pruning"]["measures"]["coverage"]["total"] > 0


def test_a_control_follows_one_setting_of_a_defense_by_its_label(tiny):
    asked = tiny(defenses=[{"name": "fmp", "p": [2, 4]}], controls=[{**FOLLOWING[0]}])
    both = [cell.method for cell in grid.cells(asked) if cell.follows]
    told = {"name": "random_pruning", "like": "fmp p=4"}
    asked = tiny(defenses=[{"name": "fmp", "p": [2, 4]}], controls=[told])
    one = [cell.method for cell in grid.cells(asked) if cell.follows]
    assert sorted({*both}) == ["random_pruning like=fmp p=2", "random_pruning like=fmp p=4"]
    assert {*one} == {"random_pruning like=fmp p=4"}


def test_a_control_is_tuned_as_the_defense_that_it_follows(tiny):
    def tuned(like, **own):
        told = [{"name": "random_pruning", "like": like, **own}]
        reading = {"name": "fmp", "weight_decay": 0, "final_lr": 1e-3, "epochs": 3}
        asked = tiny(defenses=[reading, "clp", "nad"], controls=told, tuning={"final_lr": 1e-4})
        cell = next(cell for cell in grid.cells(asked) if cell.follows)
        return tuple(cell.defense.get(key, 0) for key in ("weight_decay", "final_lr", "epochs"))

    assert tuned("fmp") == (0, 1e-3, 3)
    assert tuned("fmp", epochs=0, final_lr=0) == (0, 0, 0)
    assert tuned("clp") == (5e-4, 1e-4, 100)  # which is not tuned, so as the grid says
    assert tuned("nad") == (1e-4, 0, 20)  # no field of its own says where its rate ends


def _of(cell):
    return "cells", cell.follows.id


def test_the_oracle_prunes_what_the_trigger_changes_most(bench, tiny):
    (cell,) = grid.chosen(grid.cells(tiny(controls=[{"name": "oracle", "p": 2}])), "badnets*oracle")
    ((_, record, _),) = worked(bench, [cell])
    assert record["status"] == "done"
    run, images = bench._run(cell.victim, lambda *_: None), bench.shelf(cell.victim)
    ready = bench._loaded(cell.victim, images, run)
    changes = victims.probe(cell.victim, ready, images, run).changes
    for name, places in silenced(record).items():
        count = len(changes[name]) // 2
        assert set(places) == set(changes[name].argsort(descending=True)[:count].tolist())


def test_what_was_pruned_is_counted_though_it_is_back():
    layers = find_layers(noisy_net(), torch.rand(1, 3, 8, 8))
    told = {"status": "done", "cell": {"defense": {"name": "fmp"}}, "layers": []}
    gone = [{"name": "0", "silenced": [1, 2]}, {"name": "3", "silenced": []}]
    assert controls._counts(layers, {**told, "pruned": gone}) == {"0": 2, "3": 0}
    assert controls._counts(layers, {**told, "layers": gone}) == {"0": 2, "3": 0}  # of old records
    with pytest.raises(ControlFailedError, match="fmp, which it follows, pruned no channel"):
        controls._counts(layers, told)


def test_a_control_says_which_layers_are_too_narrow_and_fails_where_all_are():
    def aimed(p):
        return controls.RandomPruning(p=p).aimed(noisy_net(), None, noise(2), None, Run())

    with pytest.warns(UnbackdoorWarning, match=r"fewer than p = 7 channels \(0\)"):
        aimed(7)
    with pytest.raises(ControlFailedError, match="random_pruning prunes nothing from 2 of 2 layer"):
        aimed(10)


def test_random_pruning_is_not_given_the_trigger(bench, tiny, monkeypatch):
    monkeypatch.setattr(victims, "probe", lambda *_: pytest.fail("random pruning saw the trigger"))
    cells = grid.cells(tiny(controls=[{"name": "random_pruning", "p": 2}]))
    for _, record, _ in worked(bench, grid.chosen(cells, "random")):
        assert record["status"] == "done"
        assert all(len(places) in (1, 2, 4, 8) for places in silenced(record).values())


def test_what_follows_a_failure_fails(bench, tiny, monkeypatch):
    def broken(self, model, clean, run):
        raise ZeroDivisionError("on the third layer")

    monkeypatch.setattr(FMP, "mend", broken)
    both = [{"name": "random_pruning", "like": ["fmp", "fine_tuning"]}]
    ran = worked(bench, grid.chosen(grid.cells(tiny(controls=both)), "badnets*random"))
    errors = [record["error"] for _, record, _ in ran]
    assert "fmp, which it follows, failed: ZeroDivisionError" in errors[0]
    assert "fine_tuning, which it follows, pruned no channel" in errors[1]


@pytest.mark.parametrize(
    ("told", "kind", "says"),
    [
        ({"name": "orakle", "p": 2}, UnknownNameError, "did you mean 'oracle'"),
        ({"name": "oracle"}, ParameterError, "give either p or like"),
        ({"name": "oracle", "p": 2, "like": "fmp"}, ParameterError, "give either p or like"),
        ({"name": "oracle", "like": "fpm"}, UnknownNameError, "did you mean 'fmp'"),
        ({"name": "oracle", "q": 2}, UnknownNameError, "parameter of oracle 'q'"),
        ({"name": "oracle", "p": 0}, ParameterError, "greater than or equal to 1"),
    ],
)
def test_what_makes_no_sense_is_refused(tiny, told, kind, says):
    with pytest.raises(kind, match=says):
        grid.cells(tiny(controls=[told]))


def test_a_control_is_no_defense_of_the_package():
    from unbackdoor.core import method

    assert not set(controls.CONTROLS) & set(method.names("defense"))


def test_tables_mark_controls(bench, tiny):
    cells = grid.cells(tiny(controls=[*FOLLOWING, {"name": "oracle", "p": 2}]))
    Plan(cells, bench.store).write()
    found = results.read(bench.folder)
    assert {row.defense for row in found.rows} == {
        *("fine_tuning", "fmp", "random_pruning (control)"),
        *("oracle (control) p=2", "oracle (control) p=4"),
    }
    assert "| oracle (control) p=2 |" in tables.markdown(found.rows)
    assert {row.defense for row in found.rows if row.control} == {
        row.defense for row in found.rows if "(control)" in row.defense
    }
    assert set(found.methods["defense"]) >= {"oracle", "random_pruning"}
