import copy

import torch
from torch import nn

from defenses.samples import task
from defenses.test_ims import Tokens
from unbackdoor.network.blocks import find_blocks
from unbackdoor.network.gates import Gated, bake_
from unbackdoor.network.inserts import reattach_


def gated():
    clean, net = task()
    return clean.pixels / 255, net, Gated(copy.deepcopy(net), {"0": 6, "3": 8}, 20.0)


def test_a_closed_channel_is_open_in_the_inverse_and_a_shared_one_in_both():
    _, _, both = gated()
    with torch.no_grad():
        both.kept[1].copy_(torch.tensor([0.0, 0.0, *[1.0] * 6]))
        both.shared[1].copy_(torch.tensor([0.0, 1.0, 0.0, *[1.0] * 5]))
    plain, inverse = both.gates()[1], both.gates(inverse=True)[1]
    close = {"atol": 1e-3, "rtol": 0}
    torch.testing.assert_close(plain, torch.tensor([0.0, 1, 1, 1, 1, 1, 1, 1]), **close)
    torch.testing.assert_close(inverse, torch.tensor([1.0, 1, 0, 1, 1, 1, 1, 1]), **close)


def baked(both, net, hosts):
    with torch.no_grad():
        for part in (*both.kept, *both.shared):
            part.uniform_(0, 1, generator=torch.Generator().manual_seed(0))
    bake_(net, dict(zip(hosts, both.gates(), strict=True)))
    return net


def test_what_a_gate_does_is_in_the_weights_afterwards():
    x, net, both = gated()
    plain = net(x)
    norm = copy.deepcopy(net[1].state_dict())
    baked(both, net, ("0", "3"))
    torch.testing.assert_close(net(x), both(x))
    assert not torch.allclose(both(x), plain, atol=1e-2)
    # What a gate scales is what the convolution puts out, not what its norm does.
    assert all(torch.equal(value, norm[name]) for name, value in net[1].state_dict().items())


def test_behind_a_block_a_gate_is_an_insert_and_comes_back_from_the_state_dict():
    x, net = torch.rand(3, 1, 8, 8), Tokens().eval()
    both = Gated(copy.deepcopy(net), find_blocks(net), 20.0)
    baked(both, net, find_blocks(net))
    torch.testing.assert_close(net(x), both(x))
    fresh = Tokens().eval()
    assert not torch.allclose(fresh(x), net(x), atol=1e-3)
    reattach_(fresh, net.state_dict())
    fresh.load_state_dict(net.state_dict())
    assert torch.equal(fresh(x), net(x))


def test_a_gate_that_does_not_fit_its_block_is_not_hung():
    net = Tokens()
    reattach_(net, {"blocks.0.gate.share": torch.ones(5), "blocks.gate.share": torch.ones(4)})
    assert net.state_dict().keys() == Tokens().state_dict().keys()


def test_a_block_may_put_out_more_than_its_tokens():
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.LayerNorm(2), nn.LayerNorm(2)

        def forward(self, x):
            return x, "attention"

    net = nn.ModuleDict({"block": Pair()})
    bake_(net, {"block": torch.tensor([1.0, 0.0])})
    told, more = net["block"](torch.ones(1, 3, 2))
    assert told.tolist() == [[[1.0, 0.0]] * 3] and more == "attention"


def test_blocks_are_the_innermost_modules_with_two_norms():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.start, self.end, self.inner = nn.LayerNorm(3), nn.LayerNorm(3), Tokens()

    assert find_blocks(Outer()) == {"inner.blocks.0": 4, "inner.blocks.1": 4}
    assert find_blocks(task()[1]) == {}
