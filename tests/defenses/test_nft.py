import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from defenses.samples import task
from unbackdoor.core.errors import ModelError
from unbackdoor.core.run import Run
from unbackdoor.defenses.nft import NFT, mixtures

RUN = Run(precision="fp32")
TOLD = {"epochs": 10, "batch": 20, "held_out": 0.0}


def test_images_and_losses_are_mixed_alike():
    x = torch.arange(6.0).view(6, 1, 1, 1)
    mixed, other, share = mixtures(x, torch.arange(6), torch.Generator().manual_seed(0))
    assert 0 < share < 1 and sorted(other.tolist()) == list(range(6))
    assert other.tolist() != list(range(6))
    expected = share * torch.arange(6) + (1 - share) * other
    torch.testing.assert_close(mixed.flatten(), expected)


def test_only_norms_change_and_their_weights_by_the_masks():
    clean, net = task()
    repaired = NFT(**TOLD).repair(net, clean, RUN)
    for index, name in ((0, "weight"), (3, "weight"), (3, "bias"), (8, "weight"), (4, "bias")):
        assert torch.equal(getattr(net[index], name), getattr(repaired.model[index], name))
    masks = repaired.scores["4"]
    assert masks.min() < 0.99
    torch.testing.assert_close(repaired.model[4].weight, net[4].weight * masks)


def test_masks_are_held_up_by_the_price_and_by_a_floor_that_falls_with_depth():
    clean, net = task()
    dear = NFT(**TOLD, price=1e4).repair(net, clean, RUN).scores
    assert all((mask == 1).all() for mask in dear.values())
    # A negative mask cannot be: with labels that teach nothing else, the floor is where it ends.
    low = NFT(**TOLD, lr=50.0, floor=0.9, decay=0.3).repair(net, clean, RUN).scores
    for depth, mask in enumerate(low.values(), start=1):
        floor = 0.9 * math.exp(-0.3 * depth)
        assert mask.min() == pytest.approx(floor) and mask.max() <= 1


def test_a_network_without_norms_is_refused():
    clean, _ = task()
    with pytest.raises(ModelError, match="nft needs norms"):
        NFT().repair(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), clean, RUN)


def test_what_is_trained_on_is_the_mixture(monkeypatch):
    clean, net = task()
    kept = {}
    monkeypatch.setattr("unbackdoor.defenses.nft.fit", lambda *_, **told: kept.update(told))
    monkeypatch.setattr("unbackdoor.defenses.nft.mixtures", lambda x, y, _: (1 - x, 1 - y, 0.25))
    NFT().mend(net, clean, RUN)
    x, y = clean.pixels / 255, clean.labels
    told = net(1 - x)
    expected = 0.25 * F.cross_entropy(told, y) + 0.75 * F.cross_entropy(told, 1 - y)
    torch.testing.assert_close(kept["objective"](net, x, y), expected)
