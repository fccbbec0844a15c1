import pytest
import torch
from torch import nn

from defenses.samples import task
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.ft_sam import FTSAM


def test_it_learns_and_repeats_itself():
    clean, net = task()
    nn.init.zeros_(net[-1].weight)
    method = FTSAM(epochs=8, batch=16, flip=False)
    first, second = (method.repair(net, clean, Run(precision=p)).model for p in ("fp32", "fp32"))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    x = clean.pixels.float() / 255
    assert (first(x).argmax(1) == clean.labels).float().mean() > 0.9


def test_it_works_in_bfloat16():
    clean, net = task()
    repaired = FTSAM(epochs=1, batch=16).repair(net, clean, Run(precision="bf16")).model
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in repaired.parameters())


def test_rho_changes_the_result():
    clean, net = task()
    near, far = (
        FTSAM(epochs=1, batch=16, rho=rho).repair(net, clean, Run()).model for rho in (1e-6, 2.0)
    )
    assert not torch.equal(near[0].weight, far[0].weight)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_labels_are_smoothed_and_the_classes_balanced(monkeypatch, smoothing):
    clean, net = task()
    uneven = clean[torch.cat([torch.arange(0, 80, 2), torch.tensor([1, 3, 5])])]
    told = {}

    def watch(self, model, images, run, objective, **_):
        told.update(labels=images.labels, objective=objective)

    monkeypatch.setattr(FTSAM, "tune", watch)
    FTSAM(smoothing=smoothing, held_out=0).mend(net, uneven, Run())
    assert told["labels"].bincount().tolist() == [22, 21]
    x, y = clean.pixels / 255, clean.labels
    expected = nn.functional.cross_entropy(net(x), y, label_smoothing=smoothing)
    torch.testing.assert_close(told["objective"](net, x, y), expected)


def test_a_balanced_draw_keeps_the_number_and_evens_the_classes():
    labels = torch.tensor([0] * 6 + [1] * 2 + [3])
    images = Images(
        torch.arange(9, dtype=torch.uint8).view(9, 1, 1, 1), labels, tuple("abcd")
    ).balanced(torch.Generator().manual_seed(0))
    assert images.labels.bincount(minlength=4).tolist() == [3, 3, 0, 3]
    assert images.pixels[images.labels == 3].flatten().tolist() == [8, 8, 8]
    assert len(set(images.pixels[images.labels == 0].flatten().tolist())) == 3


def test_only_the_first_pass_of_a_step_moves_the_statistics_of_norms():
    clean, net = task()
    before = int(net[1].num_batches_tracked)
    repaired = FTSAM(epochs=1, batch=16, held_out=0).repair(net, clean, Run()).model
    steps = -(-len(clean) // 16)
    assert int(repaired[1].num_batches_tracked) - before == steps


def test_it_climbs_in_proportion_to_the_size_of_the_weights(monkeypatch):
    clean, net = task()
    kept, at = {}, []
    monkeypatch.setattr(FTSAM, "tune", lambda *_, **told: kept.update(told))
    FTSAM(rho=2.0).mend(net, clean, Run())
    weight = nn.Parameter(torch.tensor([3.0, 4.0, 0.0]))

    def closure():
        at.append(weight.detach().clone())
        weight.grad = torch.ones(3)
        return torch.tensor(0.0)

    kept["optimizer"]([weight]).step(closure)
    size = torch.tensor([3.0, 4.0, 0.0])
    torch.testing.assert_close(at[1], size + 2 * size.square() / 5)
