"""A small model, saved files, and a timm that is small: looking through all of it takes seconds."""

from __future__ import annotations

import pytest
import torch

from checkpoints.samples import SPEC, WAYS
from unbackdoor import models

NAMES = ["resnet18", "efficientnet_lite0", "vit_tiny_patch16_224"]


@pytest.fixture(autouse=True)
def small_timm(monkeypatch):
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "list_models", lambda: NAMES)


@pytest.fixture
def model():
    return models.create(SPEC, torch.Generator().manual_seed(0)).eval()


@pytest.fixture
def saved(tmp_path):
    def save(value, way="zip", name="a.pt"):
        WAYS[way](value, tmp_path / name)
        return tmp_path / name

    return save
