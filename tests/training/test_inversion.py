import pytest
import torch

from defenses.samples import backdoored
from unbackdoor.core.run import Run
from unbackdoor.training.inversion import Patch, Search, _better, anomalies, invert


def test_a_planted_patch_is_found_in_a_linear_model():
    clean, net = backdoored(classes=4)
    search = Search(epochs=60, batch=40, cost=0.05)
    planted, other = (invert(net, label, clean, Run(), search) for label in (1, 2))
    assert planted.success >= 0.98
    assert planted.mask[:2, :2].sum() > 0.8 * planted.size
    assert (planted.pattern[0, :2, :2] > 0.5).all()
    assert planted.size < 0.5 * other.size
    assert all(weight.requires_grad and weight.grad is None for weight in net.parameters())


def test_a_patch_covers_what_its_mask_covers():
    patch = Patch(torch.tensor([[0.0, 1.0], [0.5, 0.0]]), torch.full((1, 2, 2), 0.8), 1.0)
    x = torch.full((1, 1, 2, 2), 0.2)
    torch.testing.assert_close(patch.stamp(x)[0, 0], torch.tensor([[0.2, 0.8], [0.5, 0.2]]))
    assert patch.size == 1.5


def test_of_two_that_work_the_smaller_is_better():
    def patch(size, success):
        return Patch(torch.full((1, 1), size), torch.zeros(1, 1, 1), success)

    small, large, poor = patch(0.1, 0.98), patch(0.9, 1.0), patch(0.05, 0.5)
    assert _better(small, large, 0.98) is small
    assert _better(large, small, 0.98) is small
    assert _better(large, poor, 0.98) is large
    assert _better(None, poor, 0.98) is poor


def test_anomalies_count_deviations_below_the_median():
    # median 10, absolute deviations 8, 1, 0, 1, 2: their median is 1
    index = anomalies(torch.tensor([2.0, 9.0, 10.0, 11.0, 12.0]))
    assert index.tolist() == pytest.approx([8 / 1.4826, 1 / 1.4826, 0, 0, 0])
    assert anomalies(torch.ones(3)).tolist() == [0, 0, 0]
    assert anomalies(torch.tensor([1.0, 9.0])).max() < 2
