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


@pytest.mark.parametrize(("success", "factor"), [(0.0, 2.0), (1.0, 2**-1.5)])
def test_the_price_rises_where_it_works_and_falls_where_it_does_not(monkeypatch, success, factor):
    # Of success 0 every pass is good enough; of success 1 none, for half of it cannot be reached.
    clean, _ = backdoored(n=8)
    fixed = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    with torch.no_grad():
        fixed[1].weight.zero_()
        fixed[1].bias.copy_(torch.tensor([1.0, 0.0]))
    slopes = []
    step = torch.optim.Adam.step

    def watch(self, *args, **more):
        mask = self.param_groups[0]["params"][0]
        sigmoid = mask.detach().sigmoid()
        slopes.append(float((mask.grad / (sigmoid * (1 - sigmoid))).mean()))
        return step(self, *args, **more)

    monkeypatch.setattr(torch.optim.Adam, "step", watch)
    search = Search(epochs=5, batch=8, cost=0.5, success=success, patience=2)
    invert(fixed, 1, clean, Run(), search)
    expected = [0.5, 0.5, 0.5 * factor, 0.5 * factor, 0.5 * factor**2]
    assert slopes == pytest.approx(expected, rel=1e-3)


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
