"""unbackdoor scan: verdicts, exit codes, files, and what it refuses."""

from __future__ import annotations

import json
import time

import pytest
import torch

from unbackdoor.checkpoints import checkpoint
from unbackdoor.cli import rescanning, scanning
from unbackdoor.core.errors import ModelError, ParameterError
from unbackdoor.core.run import Run
from unbackdoor.scanners.base import calibration
from unbackdoor.scanners.base.scanner import Finding
from unbackdoor.scanners.base.verdict import Outcome, Verdict
from unbackdoor.scanners.latent import Latent
from unbackdoor.scanners.targeted import Targeted

from .greys import QUICK, told


def scan(run, model, *more):
    return run("scan", f"{model}.safetensors", "--clean", "clean.npz", *QUICK, *more)


def test_the_networks_of_this_test_tell_the_greys_apart(here):
    from unbackdoor import evaluate

    assert evaluate(told(0), "clean.npz").acc.value > 0.9


def test_a_calibration_of_ones_own_models_finds_a_backdoor(calibrated, run):
    with_own = ("--calibration", calibrated)
    good = scan(run, "good", *with_own)
    assert good.code == 0 and "no sign of a backdoor found" in good.out
    bad = scan(run, "bad", *with_own, "--json")
    assert bad.code == 1
    assert bad.json["outcome"] == "suspicious" and bad.json["suspect"] == {
        "class": 1,
        "name": "bee",
    }
    assert bad.json["alarms"]["false_alarms"] == {"hits": 0, "total": 19, "value": 0.0}
    assert bad.json["alarms"]["p_value"] == pytest.approx(0.05)
    assert bad.json["pictures"]["examples"]


def test_exit_codes_are_chosen(calibrated, run):
    bad = ("bad", "--calibration", calibrated)
    assert scan(run, *bad, "--fail-on", "suspicious").code == 1
    assert scan(run, *bad, "--fail-on", "never").code == 0
    unknown = ("bad", "--scanner", "latent")  # no clean models of this kind are in the package
    assert scan(run, *unknown).code == 3
    assert scan(run, *unknown, "--fail-on", "suspicious").code == 0
    assert scan(run, *unknown, "--fail-on", "never").code == 0


def test_the_files_of_a_scan(calibrated, run, here):
    done = scan(run, "bad", "--calibration", calibrated, "--out", "out")
    assert done.code == 1
    assert sorted(path.name for path in (here / "out").iterdir()) == [
        "model.cdx.json",
        "record.json",
        "report.html",
        "scan.sarif",
    ]
    record = json.loads((here / "out" / "record.json").read_text())
    assert record["kind"] == "scan" and len(record["classes"]) == 3
    assert record["calibration"]["arch"] == "simple_cnn"
    page = (here / "out" / "report.html").read_text()
    assert "bee" in page and "Suspicious" in page
    result = json.loads((here / "out" / "scan.sarif").read_text())["runs"][0]["results"][0]
    place = result["locations"][0]["physicalLocation"]["artifactLocation"]
    assert place["uri"] == "bad.safetensors"
    again = scan(run, "bad", "--calibration", calibrated, "--out", "out")
    assert again.code == 2 and "not empty" in again.err


def test_a_first_look_comes_before_a_slower_scanner(here, run):
    done = run(
        "scan",
        "bad.safetensors",
        "--clean",
        "clean.npz",
        "--scanner",
        "universal",
        "-p",
        "radii=2",
        "-p",
        "steps=1",
        "--device",
        "cpu",
        "--json",
    )
    assert done.code == 3
    assert done.err.index("latent: not judged") < done.err.index("universal: not judged")
    assert done.json["other_scan"]["scanner"] == "latent"


def test_a_kind_that_is_not_known_is_compared_with_others(here, run, monkeypatch):
    quick = Targeted(images=8, held_out=8, most_classes=2)
    kinds = [
        calibration.made(told(), {quick: [0.0] * 7}, "of this test")
        .kinds[0]
        .model_copy(update={"arch": f"other{place}"})
        for place in range(3)
    ]
    text = calibration.Calibration(format=1, kinds=kinds).model_dump_json()
    (here / "others.json").write_text(text)
    given = [f"{name}={getattr(quick, name)}" for name in ("images", "held_out", "most_classes")]
    asked = [part for text in given for part in ("-p", text)]
    done = scan(run, "bad", "--calibration", here / "others.json", *asked, "--json")
    assert done.json["scanner"]["name"] == "targeted" and done.code in (1, 3)
    assert done.json["outcome"] != "no sign of a backdoor found"
    assert done.json["alarms"]["other_kinds"] == 3
    assert done.json["alarms"]["false_alarms"] == {"hits": 0, "total": 21, "value": 0.0}
    assert done.code == 1 or "other kinds" in done.json["reason"]
    known = scan(run, "bad", "--calibration", here / "others.json", "--scanner", "latent", "--json")
    assert known.code == 3  # its score means nothing on another kind


def test_a_first_look_that_is_impossible_is_no_end(here, run, monkeypatch):
    def refused(*_):
        raise ModelError("latent needs another network")

    monkeypatch.setattr(Latent, "look", refused)
    given = ("bad.safetensors", "--clean", "clean.npz", "--device", "cpu", "--json")
    done = run("scan", *given, "--scanner", "universal", "-p", "radii=1", "-p", "steps=1")
    assert done.code == 3 and "latent needs another network" in done.err
    assert done.json["other_scan"] is None and done.json["scanner"]["name"] == "universal"


def test_without_images_only_what_needs_none(here, run):
    done = run("scan", "bad.safetensors", "--scanner", "last_layer", "--json", *QUICK)
    assert done.code == 3 and done.json["clean"] is None and done.json["other_scan"] is None
    refused = run("scan", "bad.safetensors", *QUICK)
    assert refused.code == 2 and "needs clean images" in refused.err
    checkpoint.save(told(size=None), here / "sizeless.safetensors", {})
    refused = run("scan", "sizeless.safetensors", *QUICK)
    assert refused.code == 2 and "needs clean images" in refused.err
    refused = run("scan", "sizeless.safetensors", "--scanner", "last_layer", *QUICK)
    assert refused.code == 2 and "--size" in refused.err


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (("--clean", "clean.npz"), "one of MODEL and --calibrate"),
        (("bad.safetensors", "--calibrate", "mine"), "one of MODEL and --calibrate"),
        (("--calibrate", "mine"), "needs --clean SRC and --out DIR"),
        (("--calibrate", "none", "--clean", "clean.npz", "--out", "o"), "not a folder"),
        (
            ("bad.safetensors", "--clean", "clean.npz", "--scanner", "latnet"),
            "did you mean 'latent'",
        ),
        (("bad.safetensors", "--clean", "clean.npz", "-p", "rounds=0"), "rounds"),
        (
            ("bad.safetensors", "--clean", "clean.npz", "--calibration", "clean.npz"),
            "no calibration",
        ),
        (("bad.safetensors", "--clean", "clean.npz", "--fail-on", "x"), "fail-on"),
        (("bad.safetensors", "--clean", "clean.npz", "--budget", "0"), "budget"),
        (("none.safetensors", "--clean", "clean.npz"), "no such file"),
    ],
)
def test_what_a_person_can_cause_is_one_line(here, run, argv, said):
    done = run("scan", *argv, "-q")
    assert done.code == 2 and said in done.err
    assert len(done.errors) == 1 and "Traceback" not in done.err
    assert not (here / "o").exists()


def test_from_python(here, calibrated):
    import unbackdoor

    model = unbackdoor.load_model(here / "bad.safetensors")
    verdict = unbackdoor.scan(
        model, here / "clean.npz", calibration=calibrated, run=Run(precision="fp32")
    )
    assert isinstance(verdict, unbackdoor.Verdict)
    assert str(verdict.outcome) == "suspicious" and verdict.suspect == 1
    without = unbackdoor.scan(model, None, "last_layer")
    assert without.finding.notes["images"] == 2 and without.accuracy is None
    with pytest.raises(ParameterError, match="latent needs clean images"):
        unbackdoor.scan(model, None, "latent", calibration=calibrated)


def test_a_repair_scans_before_and_after(here, run, monkeypatch):
    monkeypatch.setattr(rescanning, "usual", lambda *_: "latent")
    asked = ("repair", "bad.safetensors", "--clean", "clean.npz", "--defense", "clp", "--out", "o")
    done = run(*asked, "--scan", "--json", *QUICK)
    assert done.code == 0, done.err
    found = done.json["scan"]
    assert found["scanner"] == "latent" and found["before"]["leading"] == "bee"
    assert found["before"]["score"] > 0 and "no clean models" in found["after"]["reason"]
    page = (here / "o" / "report.html").read_text()
    assert "What a scan says" in page and "before the repair" in page
    without = run(*asked, "--json", "--force", *QUICK)
    assert without.json["scan"] is None
    assert "What a scan says" not in (here / "o" / "report.html").read_text()


def test_a_scan_that_is_impossible_loses_no_repair(here, run, monkeypatch):
    def look(self, model, clean, run_):
        raise ModelError("no linear layer puts out the logits")

    monkeypatch.setattr(Targeted, "look", look)
    asked = ("repair", "bad.safetensors", "--clean", "clean.npz", "--defense", "clp", "--out", "o")
    done = run(*asked, "--scan", "--json", *QUICK)
    assert done.code == 0 and (here / "o" / "model.safetensors").is_file(), done.err
    assert "no linear layer" in done.json["scan"]["lines"]["before"]
    assert "no linear layer" in (here / "o" / "report.html").read_text()


def found(first, last):
    """The verdicts of a first look and of the scanner asked for, with these outcomes."""
    return [
        scanning.Scanned(None, None, None, Verdict(Outcome(outcome))) for outcome in (first, last)
    ]


@pytest.mark.parametrize(
    ("first", "last", "counts"),
    [
        ("suspicious", "not judged", 0),
        ("suspicious", "no sign of a backdoor found", 1),
        ("no sign of a backdoor found", "not judged", 1),
        ("not judged", "suspicious", 1),
    ],
)
def test_a_first_look_counts_where_only_it_found_something(first, last, counts):
    both = found(first, last)
    assert scanning.deciding(both) is both[counts] and scanning.deciding(both[:1]) is both[0]


def test_the_budget_is_of_both_looks(here, run, monkeypatch):
    given = []

    def judged(*told, **_):
        given.append(told[5])
        time.sleep(0.05)
        return Verdict(Outcome.not_judged, "out of time")

    monkeypatch.setattr(scanning, "judged", judged)
    assert scan(run, "bad", "--scanner", "universal", "--budget", "0.001").code == 3
    assert given[0] == pytest.approx(0.001, abs=1e-4) and given[1] < 0.0003


def test_no_class_is_named_where_all_stand_out_as_much(here, run, monkeypatch):
    def look(self, model, clean, run_):
        return Finding(torch.zeros(3), 0.0, change=torch.zeros(3, 16, 16))

    monkeypatch.setattr(Latent, "look", look)
    done = scan(run, "bad", "--scanner", "latent", "--out", "o", "--json")
    assert done.json["leading"] is None and done.json["pictures"] is None
    assert "stands out most is" not in (here / "o" / "report.html").read_text()
