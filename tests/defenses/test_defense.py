import warnings
from dataclasses import replace

import pytest
import torch
from torch import nn

from unbackdoor.core.errors import ImagesError, ModelError, UnbackdoorWarning
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.defenses.base.defense import Defense, Repair
from unbackdoor.defenses.fine_tuning import FineTuning
from unbackdoor.defenses.ft_sam import FTSAM
from unbackdoor.defenses.i_bau import IBAU


class Scaling(Defense):
    """Multiplies every weight; looks at its images once, and twice through a copy."""

    factor: float = 1.0

    def mend(self, model, clean, run):
        x = clean.pixels.float() / 255
        model(x).sum().backward()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(self.factor)
        return Repair(model, notes={"images": len(clean)})


def bright(n=60):
    """Images that a net of one weight matrix tells apart without a mistake, and that net."""
    labels = torch.arange(n) % 2
    pixels = (labels * 255).to(torch.uint8).view(n, 1, 1, 1).expand(n, 1, 2, 2).contiguous()
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4))
        net.append(nn.Linear(2, 2))
        net[2].weight.copy_(torch.eye(2))
        net[2].bias.copy_(torch.tensor([0.5, 0.0]))
    return Images(pixels, labels, ("dark", "bright")), net


def test_the_notes_tell_passes_seconds_and_held_out_accuracy():
    clean, net = bright()
    notes = Scaling(factor=2).repair(net, clean, Run()).notes
    assert notes["images"] == 50  # 10 of 60 judge
    assert notes["passes"] == 50 / 60
    assert notes["held_out_acc_before"] == notes["held_out_acc_after"] == 1
    assert 0 < notes["seconds"] < 60


def test_gradients_are_counted_apart_from_passes():
    clean, net = bright()
    notes = FineTuning(epochs=2, held_out=0, max_acc_drop=1).repair(net, clean, Run()).notes
    assert (notes["passes"], notes["passes_back"]) == (2, 2)
    # Each SAM step takes two gradients; the images that judge it take none.
    notes = FTSAM(epochs=1, held_out=0, max_acc_drop=1).repair(net, clean, Run()).notes
    assert (notes["passes"], notes["passes_back"]) == (2, 2)
    notes = IBAU(epochs=1, held_out=0, max_acc_drop=1).repair(net, clean, Run()).notes
    assert notes["passes_back"] > notes["passes"] > 0  # gradients of gradients come back once more


def test_a_destroyed_model_comes_back_as_it_came():
    clean, net = bright()
    with pytest.warns(UnbackdoorWarning, match="destroyed the model.* from 1.00 to 0"):
        repaired = Scaling(factor=-1).repair(net, clean, Run())
    assert repaired.notes["held_out_acc_after"] < 0.8
    for one, two in zip(net.parameters(), repaired.model.parameters(), strict=True):
        assert torch.equal(one, two) and one is not two


def test_what_an_undone_repair_pruned_is_kept():
    clean, net = bright()
    mask = {"1": torch.tensor([True, False])}

    class Pruning(Scaling):
        def mend(self, model, clean, run):
            return replace(super().mend(model, clean, run), silenced=mask, pruned=mask)

    with pytest.warns(UnbackdoorWarning, match="destroyed the model"):
        repaired = Pruning(factor=-1).repair(net, clean, Run())
    assert repaired.silenced == {} and repaired.pruned == mask
    assert Repair(net, mask).pruned == mask and Repair(net).pruned == {}


def test_a_drop_within_the_allowance_or_unjudged_is_kept():
    clean, net = bright()
    for method in (Scaling(factor=-1, max_acc_drop=1), Scaling(factor=-1, held_out=0)):
        repaired = method.repair(net, clean, Run())
        assert torch.equal(repaired.model[1].weight, -net[1].weight)


def test_a_repair_that_changed_nothing_warns():
    clean, net = bright()
    with pytest.warns(UnbackdoorWarning, match="changed no weight"):
        Scaling().repair(net, clean, Run())


def test_no_hook_no_gradient_and_no_mode_stays_behind():
    clean, net = bright()
    net[1].eval()
    repaired = Scaling(factor=2).repair(net, clean, Run())
    assert all(weight.grad is None for weight in repaired.model.parameters())
    assert [m.training for m in repaired.model.modules()] == [m.training for m in net.modules()]
    assert not repaired.model._forward_pre_hooks and not net._forward_pre_hooks


def test_what_cannot_be_repaired_is_refused():
    clean, net = bright()
    with pytest.raises(ImagesError, match="needs clean images"):
        Scaling().repair(net, clean[:0], Run())
    three = Images(clean.pixels, clean.labels, ("a", "b", "c"))
    with pytest.raises(ImagesError, match="3 classes"):
        Scaling().repair(net, three, Run())
    net[1].weight.data[0, 0] = float("nan")
    with pytest.raises(ModelError, match="not finite"):
        Scaling().repair(net, clean, Run())


def test_mirrored_traffic_signs_are_warned_about_unless_somebody_said():
    labels = torch.arange(43)
    signs = Images(labels.to(torch.uint8).view(43, 1, 1, 1), labels, tuple(map(str, range(43))))
    net = nn.Sequential(nn.Flatten(), nn.Linear(1, 43))
    with pytest.warns(UnbackdoorWarning, match="flip=false") as told:
        FineTuning(epochs=1, held_out=0).repair(net, signs, Run())
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for flip in (True, False):
            FineTuning(epochs=1, held_out=0, flip=flip).repair(net, signs, Run())
        IBAU(epochs=1, held_out=0).repair(net, signs, Run())  # it mirrors none


def test_a_batch_of_one_image_is_one_line():
    clean, net = bright()
    net.append(nn.BatchNorm1d(2))
    with pytest.raises(ImagesError, match="fine_tuning came to a batch of one image"):
        FineTuning(epochs=1).repair(net, clean[:1], Run())


def test_of_few_images_none_is_held_out():
    clean, net = bright()
    for n in (1, 31):
        notes = Scaling(factor=-1).repair(net, clean[:n], Run()).notes
        assert notes["images"] == n and "held_out_acc_after" not in notes


@pytest.mark.parametrize(("n", "held"), [(32, 8), (50, 10), (80, 10), (200, 20), (300, 30)])
def test_how_many_are_held_out(n, held):
    clean = bright(n)[0]
    used, judges = Scaling().divided(clean, Run(), "judging")
    assert (len(used), len(judges)) == (n - held, held)


def test_what_wraps_a_model_is_left_off():
    clean, net = bright()
    repaired = Scaling(factor=2, held_out=0).repair(nn.DataParallel(net), clean, Run()).model
    assert type(repaired) is nn.Sequential
    assert torch.equal(repaired[1].weight, 2 * net[1].weight)
