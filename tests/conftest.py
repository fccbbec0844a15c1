import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same draws in each run and in any order: a test fails always or never."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def saved_after_each_epoch(monkeypatch):
    """Trainings of tests are stopped long before their state would be saved."""
    monkeypatch.setattr("unbackdoor.training.fit.PAUSE", 0.0)
