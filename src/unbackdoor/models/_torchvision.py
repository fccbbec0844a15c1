"""torchvision's classifiers by name, without weights, with a stem for small images on request."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torchvision.models
from torch import Tensor, nn

from ..core.errors import ParameterError

SET_HERE = {"self", "num_classes", "weights", "progress", "init_weights"}

RENAMED = {
    r"(wide_)?resne[x]?t\d.*": (
        *((r"\.shortcut\.", ".downsample."), (r"^linear\.", "fc.")),
        *((r"^(module\.)?backbone\.", ""), (r"^(module\.)?head\.fc\.", "fc.")),  # of OpenMMLab
    ),
    r"densenet\d+": ((r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2"),),
}
"""Other names of the same parts, by the architectures that have them, and torchvision's."""

UNUSED = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
"""Auxiliary heads: they help in training, and play no part in what the network puts out."""


def names() -> tuple[str, ...]:
    """The names of its image classifiers."""
    return tuple(torchvision.models.list_models(module=torchvision.models))


def options(arch: str) -> tuple[str, ...]:
    """What can be set: the parameters of the network's class, and `cifar_stem`."""
    built = inspect.signature(torchvision.models.get_model_builder(arch)).return_annotation
    return ("cifar_stem", *(set(inspect.signature(built.__init__).parameters) - SET_HERE))


def build(arch: str, classes: int, given: dict[str, Any]) -> nn.Module:
    """The network with fresh weights; `cifar_stem=True` keeps the size of small images.

    The two networks with auxiliary outputs are built without them, but for `aux_logits=True`.
    """
    given = dict(given)
    stem = given.pop("cifar_stem", False)
    if arch in UNUSED:
        given = {"aux_logits": False, **given, "init_weights": True}
    net: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=classes, **given)
    if stem:
        _keep_size(arch, net)
    return net


def infer(arch: str, state: Mapping[str, Tensor]) -> dict[str, bool]:
    """The stem, which the shape of the first convolution tells; raises `KeyError`."""
    name = STEMS.get(arch.rstrip("_0123456789xd"))
    return {"cifar_stem": True} if name and state[name].shape[2:] == (3, 3) else {}


STEMS = {
    **dict.fromkeys(("resnet", "resnext", "wide_resnet"), "conv1.weight"),
    "densenet": "features.conv0.weight",
}
"""Where the first convolution is, of the networks that have a stem for small images."""


def _keep_size(arch: str, net: nn.Module) -> None:
    """Makes the first convolution 3x3 with stride 1, and takes away the pooling after it."""
    if isinstance(net, torchvision.models.ResNet):
        net.conv1 = _stem(net.conv1)
        net.maxpool = nn.Identity()
    elif isinstance(net, torchvision.models.DenseNet):
        net.features.conv0 = _stem(net.features.conv0)
        net.features.pool0 = nn.Identity()
    else:
        raise ParameterError(
            f"cifar_stem is for ResNets and DenseNets, whose stem shrinks images by 4; not {arch}"
        )


def _stem(first: nn.Conv2d) -> nn.Conv2d:
    stem = nn.Conv2d(first.in_channels, first.out_channels, 3, 1, 1, bias=False)
    nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    return stem
