import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """The same draws in each run and in any order: a test fails always or never."""
    torch.manual_seed(0)
