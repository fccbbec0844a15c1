"""Small nets, written where they are tested, and what is asked of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from unbackdoor.network.channels import Mask
from unbackdoor.network.layers import Layer, find_layers

X = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Net(nn.Module):
    """Modules by name and a function of (net, x): small nets, written where they are tested."""

    def __init__(self, flow, **modules: nn.Module) -> None:
        super().__init__()
        self.flow = flow
        for name, module in modules.items():
            self.add_module(name, module)
        self.head = nn.LazyLinear(3)
        with torch.no_grad():
            self.eval()(X)
            for module in self.modules():
                if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)):
                    for parameter in module.parameters():
                        parameter.normal_()
                if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                    module.running_mean.normal_()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.flow(self, x).flatten(1))


def conv(inputs: int = 3, outputs: int = 4, **options) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


def pairs(model: nn.Module, x: Tensor = X) -> dict[str, str | None]:
    return {layer.name: layer.norm for layer in find_layers(model, x)}


def half(layers: tuple[Layer, ...]) -> Mask:
    """Every second channel."""
    return {layer.name: torch.arange(layer.channels) % 2 == 0 for layer in layers}


def outputs(model: nn.Module, paths: list[str], x: Tensor = X) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}

    def keep(path: str):
        # A clone: what is summed in place later must not change what was put out.
        return lambda module, args, y: found.update({path: y.detach().clone()})

    handles = [model.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    model(x)
    for handle in handles:
        handle.remove()
    return found


def assert_silent(
    model: nn.Module, layers: tuple[Layer, ...], mask: Mask, axis: int = 1, x: Tensor = X
) -> None:
    """Each masked channel of the layers and their norms is exactly 0; the others are not all 0."""
    paths = {
        path: layer
        for layer in layers
        for path in (layer.name, layer.norm, *layer.other_norms)
        if path is not None
    }
    for train in (False, True):
        model.train(train)
        for path, y in outputs(model, list(paths), x).items():
            rows = y.movedim(axis, 0)
            assert (rows[mask[paths[path].name]] == 0).all(), (path, train)
            assert (rows[~mask[paths[path].name]] != 0).any(), (path, train)


def residual(in_place: bool) -> Net:
    """A block whose shortcut is registered last, called first and summed in."""

    def flow(net: Net, x: Tensor) -> Tensor:
        x = net.stem(x)
        short = net.short_bn(net.short(x))
        out = net.conv2(F.relu(net.bn1(net.conv1(x))))
        out = net.bn2(out)
        if in_place:
            out += short
        else:
            out = out + short
        return F.relu_(out)

    return Net(
        flow,
        stem=conv(),
        conv1=conv(4),
        bn1=nn.BatchNorm2d(4),
        conv2=conv(4),
        bn2=nn.BatchNorm2d(4),
        short=conv(4),
        short_bn=nn.BatchNorm2d(4),
    )


def mlp(act: nn.Module) -> Net:
    """One block of a transformer's kind on 16 tokens: projection, then 5 hidden units."""

    def flow(net, x):
        x = net.patch(x).flatten(2).transpose(1, 2)
        return x + net.down(net.act(net.up(net.ln(x))))

    return Net(
        flow,
        patch=nn.Conv2d(3, 4, 2, 2),
        ln=nn.LayerNorm(4),
        up=nn.Linear(4, 5),
        act=act,
        down=nn.Linear(5, 4),
    )
