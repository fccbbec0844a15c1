"""Measures beside ACC, ASR and RA: of what, by whom, and what is measured only once."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from bench import conftest, test_given
from bench.test_run import worked
from unbackdoor.bench import grid, measures, victims
from unbackdoor.bench.measures import Probe, linear_cka
from unbackdoor.bench.plan import Plan
from unbackdoor.core.errors import ParameterError, UnknownNameError
from unbackdoor.core.images import Images, Triggered
from unbackdoor.core.measure import Rate
from unbackdoor.core.run import Run
from unbackdoor.defenses.base.defense import Repair
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.fmp import FMP

zoo = test_given.zoo
ALL = ["limit", "visibility", "reactivation", "existence", "coverage", "agreement"]


def attacked(cells, defense="fmp"):
    return grid.chosen(cells, f"badnets*{defense}")


class Net(nn.Module):
    """One layer of 64 channels; the first one alone sees the top left pixel."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 64, 1, bias=False)
        self.head = nn.Linear(64, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.weight[0] = 1

    def forward(self, x):
        return self.head(torch.relu(self.conv(x)).amax((2, 3)))


def probe(model, n=40):
    rng = torch.Generator().manual_seed(0)
    plain = torch.randint(0, 100, (n, 1, 4, 4), generator=rng, dtype=torch.uint8)
    stamped = plain.clone()
    stamped[:, :, 0, 0] = 255
    labels = torch.ones(n, dtype=torch.int64)
    images = Images(plain, labels, ("a", "b"))
    triggered = Triggered(Images(stamped, labels, ("a", "b")), torch.zeros_like(labels))
    return Probe(model, triggered, lambda places: images[places], images, images, False, Run())


def test_cka_is_one_for_the_same_up_to_scale_and_nearly_none_for_noise():
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(400, 3, 2, generator=rng)
    turned = x.flatten(1) @ torch.linalg.qr(torch.randn(6, 6, generator=rng))[0]
    assert linear_cka(x, 5 * turned + 1) == pytest.approx(1, abs=1e-5)
    assert linear_cka(x, torch.randn(400, 6, generator=rng)) < 0.05
    assert linear_cka(x, torch.ones(400, 6)) == 0


def test_the_trigger_is_in_the_channels_that_it_changes():
    found = probe(Net())
    assert found.changes["conv"].argmax() == 0 and float(found.changes["conv"][1:].abs().max()) == 0
    told = [{"name": "conv", "silenced": [0, 5]}]
    assert found.coverage(told) == {"hits": 1, "total": 1, "value": 1.0}
    told[0]["silenced"] = [3]
    assert found.coverage(told)["hits"] == 0
    told[0]["silenced"] = []
    assert found.coverage(told) is None
    told[0] = {"name": "head", "silenced": [3]}  # a feature of the classifier, no channel
    assert found.coverage(told) is None


def test_of_a_model_that_came_back_as_it_was_only_coverage_is_told():
    told = probe(Net()).of_repaired(None, [{"name": "conv", "silenced": [0]}], ALL[2:])
    assert told.pop("coverage") == {"hits": 1, "total": 1, "value": 1.0}
    assert told == dict.fromkeys(("reactivation", "existence", "agreement"))


def test_what_an_undone_repair_pruned_is_in_its_record(bench, tiny, monkeypatch):
    def mend(self, model, clean, run):
        return Repair(model, pruned={"net.conv1": torch.tensor([True, False])})

    monkeypatch.setattr(FineTuning, "mend", mend)
    monkeypatch.setattr(victims, "linear_of", lambda *_: Rate(1, 3))
    cell = grid.chosen(grid.cells(tiny()), "badnets*fine_tuning")[0]
    asked = {"measures": ("existence", "coverage"), "clean": None}  # so nothing more is planted
    cell = replace(cell, victim=replace(cell.victim, **asked))
    ((_, record, _),) = worked(bench, [cell])
    assert "unchanged" in record["flags"] and record["layers"] == []
    assert [layer["silenced"] for layer in record["pruned"] if layer["silenced"]] == [[0]]
    assert record["measures"]["existence"] is None
    assert record["measures"]["coverage"]["total"] > 0


def test_a_model_without_the_channel_holds_no_backdoor():
    net, cut = Net(), Net()
    with torch.no_grad():
        cut.conv.weight[0] = 0
    found = probe(net)
    assert found.likeness(net) == pytest.approx(1)
    assert found.likeness(cut) == 0


def test_a_trigger_that_changes_nothing_has_no_channels():
    net = Net()
    nn.init.zeros_(net.conv.weight)
    with pytest.warns(UserWarning, match="the trigger changes no channel"):
        told = probe(net).of_repaired(net, [{"name": "conv", "silenced": [1]}], ["coverage"])
    assert told == {"coverage": None}


def test_visibility_is_of_the_trigger_whatever_the_model():
    found = probe(Net()).of_clean(Net(), ["visibility"])["visibility"]
    assert 0.6 < found["linf"] <= 1 and 5 < found["psnr"] < 25  # one pixel of 16, at full range


def test_agreement_is_with_the_clean_model_that_sees_no_trigger():
    clean, obeys = Net(), Net()
    with torch.no_grad():
        for net in (clean, obeys):
            net.head.weight.zero_()
            net.head.bias.copy_(torch.tensor([0.0, 1.0]))
        obeys.head.weight[0, 0] = 1.5  # class 0 where any pixel is bright
    found = replace(probe(obeys), clean=clean)
    assert [rate["hits"] for rate in found.agreement(clean).values()] == [40, 40]
    told = found.of_repaired(obeys, [], ["agreement"])["agreement"]
    assert told["clean"]["hits"] == 40 and told["stamped"]["hits"] == 0
    assert probe(obeys).agreement(obeys) is None


def test_reactivation_trains_on_images_that_it_does_not_count(monkeypatch):
    seen = []
    monkeypatch.setattr(measures, "fit", lambda model, images, run, **how: seen.append(images))
    monkeypatch.setattr(measures, "TRIGGERED", 15)
    net = Net()
    before = [parameter.clone() for parameter in net.parameters()]
    rate = probe(net).reactivated(net)
    assert rate.total == 25 and int((seen[0].labels == 0).sum()) == 15
    assert len(seen[0]) == 15 + 40
    monkeypatch.setattr(measures, "TRIGGERED", 50)
    assert probe(net).reactivated(net).total == 20
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_reactivation_teaches_the_trigger(monkeypatch):
    monkeypatch.setattr(measures, "LR", 0.5)
    monkeypatch.setattr(measures, "EPOCHS", 40)
    torch.manual_seed(0)
    net = Net()
    assert probe(net).reactivated(net).value == 1


def test_the_bench_measures_what_the_grid_asks_for(bench, tiny):
    cells = grid.cells(tiny(measures=ALL))
    clean = cells[0].victim
    for cell, record, _ in worked(bench, attacked(cells, "*")):
        told = record["measures"]
        assert told["reactivation"]["total"] == 4  # of 8 triggered images half are trained on
        assert 0 <= told["existence"] <= 1
        assert told["agreement"]["clean"]["total"] == 12
        assert told["agreement"]["stamped"]["total"] == 8
        silences = cell.defense["name"] == "fmp"
        assert (told["coverage"] is not None) == silences
        victim = bench.store.read("victims", record["victim"])["measures"]
        assert victim["clean_model"] == clean.id
        assert victim["limit"]["asr"]["total"] == victim["limit"]["ra"]["total"] == 8
        assert victim["reactivation"]["total"] == 4 and 0 <= victim["existence"] <= 1
    ((_, record, _),) = worked(bench, cells[:1])
    assert "measures" not in record and "measures" not in bench.store.read("victims", clean.id)


def test_a_limit_is_what_the_clean_model_itself_scores(bench, tiny):
    cells = attacked(grid.cells(tiny(measures=["limit"])))
    worked(bench, cells)
    victim = cells[0].victim
    run, images = Run(), bench.shelf(victim)
    model = victims.model_of(victim.clean, bench.store.victim(victim.clean.id))
    stamped = victims.attack_of(victim).triggered(images.test)
    told = bench.store.read("victims", victim.id)["measures"]["limit"]
    found = measures.attack_rates(model, stamped, run)
    assert [told[name]["hits"] for name in ("asr", "ra")] == [rate.hits for rate in found]


def test_measures_change_no_identity_and_no_number(bench, tiny, tmp_path):
    plain, asked = grid.cells(tiny()), grid.cells(tiny(measures=ALL))
    assert [cell.id for cell in plain] == [cell.id for cell in asked]
    ((_, before, _),) = worked(bench, attacked(plain))
    assert "measures" not in before
    other = type(bench)(tmp_path / "other", "cpu", 1)
    ((_, after, _),) = worked(other, attacked(asked))
    assert after["after"] == before["after"] and after["layers"] == before["layers"]


def test_what_needs_no_repaired_model_is_measured_without_repairing_again(bench, tiny, monkeypatch):
    repairs = []
    repair = FMP.repair
    monkeypatch.setattr(FMP, "repair", lambda *a: repairs.append(1) or repair(*a))
    worked(bench, attacked(grid.cells(tiny())))
    asked = attacked(grid.cells(tiny(measures=["limit", "coverage"])))
    assert Plan(asked, bench.store).pending == asked
    ((_, record, ours),) = worked(bench, asked)
    assert ours and len(repairs) == 1 and record["measures"]["coverage"]["total"] > 0
    assert bench.store.read("cells", record["id"]) == record
    assert Plan(asked, bench.store).pending == []
    ((_, again, ours),) = worked(bench, asked)
    assert not ours and again == record
    more = attacked(grid.cells(tiny(measures=["existence"])))
    ((_, last, ours),) = worked(bench, more)
    assert ours and len(repairs) == 2
    assert last["measures"]["coverage"] == record["measures"]["coverage"]
    assert "limit" in bench.store.read("victims", record["victim"])["measures"]


def test_another_clean_model_makes_new_limits(bench, tiny):
    worked(bench, attacked(grid.cells(tiny(measures=["limit"]))))
    attack = {"name": "badnets", "size": 2, "epochs": 1}
    longer = {"training": {"epochs": 2, "batch": 16}, "attacks": [attack]}
    cells = attacked(grid.cells(tiny(measures=["limit"], **longer)))
    assert Plan(cells, bench.store).pending == cells
    worked(bench, cells)
    told = bench.store.read("victims", cells[0].victim.id)["measures"]
    assert told["clean_model"] == cells[0].victim.clean.id
    assert Plan(cells, bench.store).pending == []


def test_a_measure_that_breaks_leaves_the_repair_a_result(bench, tiny, monkeypatch):
    def broken(self, model):
        raise ZeroDivisionError("no maps")

    monkeypatch.setattr(Probe, "likeness", broken)
    ((_, record, _),) = worked(bench, attacked(grid.cells(tiny(measures=["existence"]))))
    assert record["status"] == "done" and record["measures"] == {"existence": None}
    assert "existence could not be measured: ZeroDivisionError: no maps" in record["warnings"]


def test_a_clean_model_that_failed_leaves_no_limit_until_tried_again(bench, tiny, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("no clean model")

    monkeypatch.setattr(victims, "fit", broken)
    cells = attacked(grid.cells(tiny(measures=["limit"])))
    plan = Plan(cells, bench.store)
    ((_, record, _),) = worked(bench, cells)
    victim = cells[0].victim.id
    assert record["status"] == "done"
    assert bench.store.read("victims", victim)["measures"]["limit"] is None and not plan.pending
    monkeypatch.undo()
    assert plan.forget_failures() == 0 and plan.pending == cells
    worked(bench, cells)
    assert bench.store.read("victims", victim)["measures"]["limit"]["asr"]["total"] == 8
    assert not plan.pending


def test_victims_that_are_there_name_their_clean_model(bench, tiny, tmp_path, zoo):
    def cells(**more):
        told = {"architectures": [], "attacks": [], "victims": test_given.tables(**more)}
        return grid.cells(tiny(measures=ALL, **told), tmp_path)

    with_one = cells(clean_model="fine")
    assert [cell.id for cell in cells()] == [cell.id for cell in with_one]
    ((_, record, _),) = worked(bench, cells()[:1])
    assert record["measures"]["reactivation"]["total"] == 4
    assert "measures" not in bench.store.read("victims", record["victim"])
    worked(bench, with_one[:1])
    told = bench.store.read("victims", record["victim"])["measures"]
    assert told["limit"]["asr"]["total"] == 8 and told["clean_model"] == with_one[2].victim.id
    with pytest.raises(UnknownNameError, match="did you mean 'fine'"):
        cells(clean_model="fin")
    with pytest.raises(ParameterError, match="bad has triggered images"):
        cells(clean_model="bad")
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("flip", [True, False])
def test_a_model_that_is_there_is_reactivated_as_its_data_say(bench, tiny, tmp_path, zoo, flip):
    sources = {**tiny().data[0], "flip": flip}
    told = {"architectures": [], "attacks": [], "victims": test_given.tables(), "data": [sources]}
    cell = grid.cells(tiny(measures=ALL, **told), tmp_path)[0]
    worked(bench, [cell])
    shelf = bench.shelf(cell.victim)
    ready = victims.load(cell.victim, shelf, bench.store.victim(cell.victim.id), Run())
    assert victims.probe(cell.victim, ready, shelf, Run()).flip is flip


def test_an_unknown_measure_is_refused(tmp_path, sources):
    path = tmp_path / "grid.toml"
    path.write_text("measures = ['limits']\n" + conftest.toml(sources))
    with pytest.raises(ParameterError, match="'limit'"):
        grid.read(path)
