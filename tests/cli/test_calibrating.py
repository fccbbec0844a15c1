"""unbackdoor scan --calibrate: one's own clean models."""

from __future__ import annotations

import shutil

import pytest

from unbackdoor.checkpoints import checkpoint
from unbackdoor.scanners.base import calibration
from unbackdoor.scanners.latent import Latent

from .conftest import save_npz
from .greys import CLASSES, QUICK, greys, told


def test_an_empty_folder_and_mixed_kinds_are_refused(here, run):
    (here / "empty").mkdir()
    asked = ("--clean", "clean.npz", "--out", "o", "-q")
    assert "no model files" in run("scan", "--calibrate", "empty", *asked).err
    checkpoint.save(told(classes=(*CLASSES, "dog")), here / "mine" / "zz.safetensors", {})
    done = run("scan", "--calibrate", "mine", *asked)
    assert done.code == 2 and "of another kind" in done.err and not (here / "o").exists()


def stopped(run, monkeypatch, *asked):
    """A calibration that is stopped at its fifth model, and how many were looked at since."""
    looked = []
    real = Latent.look

    def look(self, model, clean, run_):
        looked.append(1)
        if len(looked) == 5:
            raise KeyboardInterrupt
        return real(self, model, clean, run_)

    monkeypatch.setattr(Latent, "look", look)
    assert run(*asked).code == 130
    return looked


def test_a_stopped_calibration_goes_on(here, run, monkeypatch):
    asked = ("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "cal", *QUICK)
    looked = stopped(run, monkeypatch, *asked)
    assert not (here / "cal").exists()
    assert run(*asked).code == 0
    assert len(looked) in (19, 20)  # none of the first four was looked at twice
    kept = calibration.read(here / "cal" / "calibration.json")
    assert len(kept.kinds[0].scanners["latent"].scores) == 19
    assert not list(here.glob(".cal*"))


@pytest.mark.parametrize("other", [("--seed", "1"), ("--clean", "others.npz")])
def test_what_was_scanned_with_other_images_or_another_seed_is_not_taken(
    here, run, monkeypatch, other
):
    asked = ("scan", "--calibrate", "mine", "--out", "cal", "--clean", "clean.npz", *QUICK)
    save_npz(here / "others.npz", *greys(90))
    looked = stopped(run, monkeypatch, *asked)
    assert run(*asked, *other).code == 0
    assert len(looked) == 5 + 19


def test_a_copy_is_no_other_clean_model(here, run):
    shutil.copy(here / "mine" / "03.safetensors", here / "mine" / "zz.safetensors")
    done = run("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "o", "-q")
    assert done.code == 2 and "zz.safetensors is a copy of mine/03.safetensors" in done.err


def test_models_that_no_scan_would_judge_are_no_calibration(here, run):
    images, labels = greys()
    save_npz(here / "wrong.npz", images, (labels + 1) % 3)
    done = run("scan", "--calibrate", "mine", "--clean", "wrong.npz", "--out", "o", "-q")
    assert done.code == 2 and "near the chance" in done.err and not (here / "o").exists()


@pytest.mark.parametrize(
    "more", [("--budget", "1"), ("--fail-on", "never"), ("--calibration", "clean.npz")]
)
def test_options_of_a_scan_are_refused(here, run, more):
    asked = ("scan", "--calibrate", "mine", "--clean", "clean.npz", "--out", "o", *more)
    done = run(*asked)
    assert done.code == 2 and "--calibrate takes no --budget" in done.err
