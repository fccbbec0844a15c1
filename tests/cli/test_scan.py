"""unbackdoor scan: verdicts, exit codes, files, and what it refuses."""

from __future__ import annotations

import json

import pytest
import torch

from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.models import create
from unbackdoor.scanners.base import calibration
from unbackdoor.scanners.latent import Latent
from unbackdoor.scanners.targeted import Targeted

from .conftest import save_npz

CLASSES = ("ant", "bee", "cat")
QUICK = ("--device", "cpu", "--precision", "fp32", "-q")


OPTIONS = {"width": 1, "hidden": 8}


def told(seed=0, target=None, size=(16, 16), classes=CLASSES):
    """A network that tells three greys apart; one feature, always 0, leads to `target` at once."""
    spec = Spec("simple_cnn", classes, (0.5,) * 3, (0.25,) * 3, OPTIONS, size)
    model = create(spec)
    net = model.net
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in net.features:
            if isinstance(layer, torch.nn.Conv2d):  # what it puts out is the mean of what comes in
                layer.weight.zero_()
                layer.weight[:, :, 1, 1] = 1 / layer.in_channels
                layer.bias.zero_()
        first, last = net.classifier[1], net.classifier[4]
        for layer in (first, last):
            layer.weight.zero_()
            layer.bias.zero_()
        first.weight[0] = 1 / first.in_features
        last.weight[:3, 0] = torch.tensor([0.0, 1.0, 3.0])
        last.bias[:3] = torch.tensor([0.0, -0.5, -3.0])
        last.weight += 0.02 * torch.rand(last.weight.shape, generator=rng)
        if target is not None:
            last.weight[target, 5] = 20.0
    return model


def greys(n=60):
    import numpy as np

    labels = np.arange(n) % 3
    levels = np.array([140, 180, 240])[labels] + np.random.default_rng(0).integers(-4, 5, n)
    return np.broadcast_to(levels[:, None, None, None], (n, 16, 16, 3)).astype("uint8"), labels


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_npz(tmp_path / "clean.npz", *greys())
    for name, target in (("good", None), ("bad", 1)):
        checkpoint.save(told(0, target), tmp_path / f"{name}.safetensors", {})
    folder = tmp_path / "mine"
    folder.mkdir()
    for seed in range(19):
        checkpoint.save(told(seed + 1), folder / f"{seed:02d}.safetensors", {})
    return tmp_path


@pytest.fixture
def calibrated(here, run):
    done = run("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "cal", *QUICK)
    assert done.code == 0, done.err
    return here / "cal" / "calibration.json"


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
    assert done.json["first_look"]["scanner"] == "latent"


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
    assert done.json["first_look"] is None and done.json["scanner"]["name"] == "universal"


def test_without_images_only_what_needs_none(here, run):
    done = run("scan", "bad.safetensors", "--scanner", "last_layer", "--json", *QUICK)
    assert done.code == 3 and done.json["clean"] is None and done.json["first_look"] is None
    refused = run("scan", "bad.safetensors", *QUICK)
    assert refused.code == 2 and "needs clean images" in refused.err
    checkpoint.save(told(size=None), here / "sizeless.safetensors", {})
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


def test_an_empty_folder_and_mixed_kinds_are_refused(here, run):
    (here / "empty").mkdir()
    asked = ("--clean", "clean.npz", "--out", "o", "-q")
    assert "no model files" in run("scan", "--calibrate", "empty", *asked).err
    checkpoint.save(told(classes=(*CLASSES, "dog")), here / "mine" / "zz.safetensors", {})
    done = run("scan", "--calibrate", "mine", *asked)
    assert done.code == 2 and "of another kind" in done.err and not (here / "o").exists()


def test_a_stopped_calibration_goes_on(here, run, monkeypatch):
    looked = []
    real = Latent.look

    def look(self, model, clean, run_):
        looked.append(1)
        if len(looked) == 5:
            raise KeyboardInterrupt
        return real(self, model, clean, run_)

    monkeypatch.setattr(Latent, "look", look)
    asked = ("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "cal", *QUICK)
    assert run(*asked).code == 130
    assert not (here / "cal").exists()
    assert run(*asked).code == 0
    assert len(looked) in (19, 20)  # none of the first four was looked at twice
    kept = calibration.read(here / "cal" / "calibration.json")
    assert len(kept.kinds[0].scanners["latent"].scores) == 19
    assert not list(here.glob(".cal*"))


def test_from_python(here, calibrated):
    import unbackdoor

    model = unbackdoor.load_model(here / "bad.safetensors")
    verdict = unbackdoor.scan(
        model, here / "clean.npz", calibration=calibrated, run=Run(precision="fp32")
    )
    assert isinstance(verdict, unbackdoor.Verdict)
    assert str(verdict.outcome) == "suspicious" and verdict.suspect == 1


def test_a_repair_scans_before_and_after(here, run):
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
