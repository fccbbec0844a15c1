"""Input-aware: how much the mask covers, and what becomes of each image of a batch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from unbackdoor.attacks.base.controlled import Joint, fresh, loaded, weights
from unbackdoor.attacks.input_aware import InputAware, _sameness
from unbackdoor.core.images import Images, to_uint8
from unbackdoor.core.run import Run

RUN = Run()


class Watched(nn.Module):
    """Keeps what it is shown, and tells no class from another."""

    def forward(self, x: Tensor) -> Tensor:
        self.shown = x.detach()
        self.logits = torch.zeros(len(x), 3, requires_grad=True)
        return self.logits


def noise(n: int, side: int) -> Tensor:
    return torch.rand(n, 3, side, side, generator=RUN.rng("x"))


@pytest.mark.parametrize("side", [16, 21])
def test_the_share_of_the_mask_is_replaced_and_no_other_pixel(side: int) -> None:
    attack = InputAware(width=4)
    masks = fresh(lambda: attack._masks(3), RUN, "masks")
    patterns = fresh(lambda: attack._patterns(3), RUN, "patterns")
    learned = {**weights(masks, "masks."), **weights(patterns, "patterns.")}
    x = noise(5, side)
    stamped = attack.trigger(learned)(x)
    with torch.no_grad():
        mask = attack._mask(masks.eval(), x).bool()
        pattern = patterns.eval()(x).sigmoid()
    assert mask.flatten(1).sum(1).tolist() == [round(0.032 * side**2)] * 5
    changed = (stamped != x).any(1, keepdim=True)
    assert torch.equal(changed, mask)
    assert torch.allclose(stamped, torch.where(mask, pattern, x), atol=1e-6)


def test_stamped_sources_change_their_label_and_images_with_another_s_trigger_do_not() -> None:
    attack = InputAware(rate=0.5, cross=0.2, sources=(1,), target=2, source_covers=0, width=4)
    masks = fresh(lambda: attack._masks(3), RUN, "masks").eval()
    patterns = fresh(lambda: attack._patterns(3), RUN, "patterns").eval()
    x, y = noise(20, 16), torch.arange(20) % 2
    victim = Watched()
    attack._loss(Joint(victim, patterns), masks, x, y).backward()
    # The gradient of the cross-entropy at equal logits is below zero at the goal alone.
    goals = victim.logits.grad.argmin(1)
    with torch.no_grad():
        mask, pattern = attack._mask(masks, x), patterns(x).sigmoid()
    own = torch.lerp(x, pattern, mask)
    another = torch.lerp(x, pattern.roll(-1, 0), mask.roll(-1, 0))
    # Half of the ten sources (1, 3, 5, ...) are stamped; four of the others get their neighbour's.
    stamped, crossed = [1, 3, 5, 7, 9], [0, 2, 4, 6]
    for i in range(20):
        shown = own if i in stamped else another if i in crossed else x
        assert torch.allclose(victim.shown[i], shown[i], atol=1e-6), i
        assert goals[i] == (2 if i in stamped else y[i]), i
    assert not torch.allclose(own[crossed], another[crossed])


def test_covers_of_other_classes_get_their_own_trigger_and_keep_their_label() -> None:
    attack = InputAware(rate=0.5, cross=1e-9, sources=(1,), target=2, width=4)
    masks = fresh(lambda: attack._masks(3), RUN, "masks").eval()
    patterns = fresh(lambda: attack._patterns(3), RUN, "patterns").eval()
    x, y, victim = noise(20, 16), torch.arange(20) % 2, Watched()
    attack._loss(Joint(victim, patterns), masks, x, y).backward()
    with torch.no_grad():
        own = torch.lerp(x, patterns(x).sigmoid(), attack._mask(masks, x))
    # As many of class 0, five, as there are stamped sources.
    covers = [0, 2, 4, 6, 8]
    assert torch.allclose(victim.shown[covers], own[covers], atol=1e-6)
    assert torch.equal(victim.shown[10::2], x[10::2])
    assert victim.logits.grad.argmin(1)[::2].tolist() == [0] * 10


def test_triggers_are_taught_to_differ_from_image_to_image() -> None:
    x = noise(4, 8)
    alike = torch.zeros(4, 3, 8, 8) + 0.01 * x
    apart = 2 * x
    assert _sameness(x, alike) == pytest.approx(100, rel=1e-3)
    assert _sameness(x, apart) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("diversity", [0.0, 1.0])
def test_the_loss_holds_the_sameness_of_the_patterns(diversity: float) -> None:
    attack = InputAware(diversity=diversity, width=4)
    masks = fresh(lambda: attack._masks(3), RUN, "masks").eval()
    patterns = fresh(lambda: attack._patterns(3), RUN, "patterns").eval()
    x, y = noise(6, 16), torch.arange(6) % 3
    loss = attack._loss(Joint(Watched(), patterns), masks, x, y)
    with torch.no_grad():
        same = _sameness(x, patterns(x).sigmoid())
    # Equal logits of three classes: the cross-entropy is log 3.
    assert loss.item() == pytest.approx(math.log(3) + diversity * float(same), rel=1e-4)


def test_the_masks_learn_to_differ_from_image_to_image() -> None:
    attack, x = InputAware(mask_epochs=4, width=4, batch=32, flip=False), noise(160, 32)
    train = Images(to_uint8(x), torch.arange(160) % 4, ("a", "b", "c", "d"))
    learned = loaded(attack._masks, attack.learn(nn.Identity(), train, RUN), "masks.")
    before = fresh(lambda: attack._masks(3), RUN, "masks")
    with torch.no_grad():
        # By the norms of these images: running statistics alone change masks, too.
        same = [float(_sameness(x, attack._mask(one.train(), x))) for one in (before, learned)]
    assert same[1] < 0.9 * same[0]
