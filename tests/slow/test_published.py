"""Defenses do to their authors' victims what their authors published."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import unbackdoor
from unbackdoor.core.run import Run

SHARED = Path(__file__).parents[3] / "shared"
VICTIM = SHARED / "zoo-real" / "smallvgg-cifar10-badnets"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::unbackdoor.core.errors.UnbackdoorWarning")
@pytest.mark.skipif(not VICTIM.is_dir(), reason="the strangers' checkpoints are absent")
def test_one_round_of_i_bau_takes_its_authors_patch_out():
    """Published: ACC 84.9 to 83.1, ASR 97.6 to 9.4, the target's own images counted."""
    images = unbackdoor.load_images(SHARED / "data" / "cifar10-test.parquet")
    clean, test = images[:5000], images[5000:]
    victim = unbackdoor.load_model(VICTIM / "badnets_8_02_ckpt.pth", arch="small_vgg")
    patched = clean.pixels.clone()
    patched[:, :, 27:31, 27:31] = 255
    goal = json.loads((VICTIM / "meta.json").read_text(encoding="utf-8"))["target"]
    before = unbackdoor.evaluate(victim, test)
    repaired = unbackdoor.repair(
        victim, clean, "i_bau", run=Run(precision="fp32"), epochs=1, held_out=0.0
    ).model
    assert unbackdoor.evaluate(repaired, test).acc.value > before.acc.value - 0.03
    with torch.no_grad():
        said = torch.cat([repaired(x.float() / 255).argmax(1) for x in patched.split(500)])
    assert (said == goal).float().mean() < 0.15
