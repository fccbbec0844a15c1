"""Looking through all of timm takes seconds; here it is small."""

from __future__ import annotations

import pytest
import torch

from checkpoints.samples import SPEC
from unbackdoor import models

NAMES = ["resnet18", "efficientnet_lite0", "vit_tiny_patch16_224"]


@pytest.fixture(autouse=True)
def small_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "list_models", lambda: NAMES)


@pytest.fixture
def model():
    return models.create(SPEC, torch.Generator().manual_seed(0)).eval()
