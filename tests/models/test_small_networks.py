"""The networks for small images: each learns at 32 and 64 pixels, and is known by its weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unbackdoor import models
from unbackdoor.checkpoints import checkpoint
from unbackdoor.core.errors import ParameterError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run
from unbackdoor.core.spec import Spec
from unbackdoor.network.layers import find_layers
from unbackdoor.training.fit import fit

CLASSES = ("ant", "bee", "cat")
OWN: list[tuple[str, dict[str, Any]]] = [
    ("all_cnn", {"width": 8, "in_channels": 3}),
    ("densenet_bc", {"depth": 16, "growth": 4, "in_channels": 3}),
    ("cifar_mobilenet_v2", {"width": 0.1, "in_channels": 3}),
]
THEIRS: list[tuple[str, dict[str, Any]]] = [
    ("timm:convnext_atto", {"patch_size": 2, "dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}),
    ("timm:vit_tiny_patch16_224", {"patch_size": 4, "depth": 2, "embed_dim": 24, "num_heads": 2}),
]
EVERY = OWN + THEIRS


def made(arch: str, options: dict[str, Any], side: int = 32) -> models.Normalized:
    if "vit" in arch:
        options = options | {"img_size": side}
    spec = Spec(arch, CLASSES, (0.5,) * 3, (0.2,) * 3, options)
    return models.create(spec, torch.Generator().manual_seed(0))


def images(side: int) -> Images:
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (9, 3, side, side), generator=rng, dtype=torch.uint8)
    return Images(pixels, torch.arange(9) % 3, CLASSES)


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize(("arch", "options"), EVERY, ids=[arch for arch, _ in EVERY])
def test_a_step_of_training_changes_every_parameter(
    arch: str, options: dict[str, Any], side: int
) -> None:
    if ":" in arch:
        pytest.importorskip("timm")
    model, seen = made(arch, options, side), images(side)
    before = {key: value.clone() for key, value in model.named_parameters()}
    fit(model, seen, Run(precision="fp32"), epochs=1, lr=0.05, batch=9)
    changed = {key for key, value in model.named_parameters() if not value.equal(before[key])}
    # The bias of attention's keys plays no part: a softmax takes it out.
    assert before.keys() - changed <= {key for key in before if key.endswith("qkv.bias")}
    logits = model.eval()(torch.rand(2, 3, side, side))
    assert logits.shape == (2, 3) and logits.isfinite().all()
    assert len(find_layers(model, torch.rand(1, 3, side, side))) >= 2


@pytest.mark.parametrize(("arch", "options"), OWN, ids=[arch for arch, _ in OWN])
def test_its_weights_tell_its_options(arch: str, options: dict[str, Any], tmp_path: Any) -> None:
    model = made(arch, options).eval()
    assert models.infer(arch, model.net.state_dict()) == options
    checkpoint.save(model, tmp_path / "m.safetensors", {})
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(checkpoint.load(tmp_path / "m.safetensors").eval()(x), model(x))


@pytest.mark.parametrize(
    ("name", "side"), [("all_cnn", 8), ("densenet_bc", 8), ("cifar_mobilenet_v2", 4)]
)
def test_small_images_are_shrunk_by_four_or_eight(name: str, side: int) -> None:
    net = made(name, dict(OWN)[name]).net.eval()
    assert net.features(torch.rand(1, 3, 32, 32)).shape[2:] == (side, side)  # type: ignore[operator]


@pytest.mark.parametrize("width", [0.25, 0.5, 1.0])
def test_the_width_of_a_mobilenet_is_told_by_its_weights(width: float) -> None:
    state = made("cifar_mobilenet_v2", {"width": width}).net.state_dict()
    assert models.infer("cifar_mobilenet_v2", state) == {"width": width, "in_channels": 3}


def test_only_all_cnn_has_no_norm_at_all() -> None:
    norms = {
        arch: [
            kind
            for part in made(arch, options).modules()
            if "Norm" in (kind := type(part).__name__)
        ]
        for arch, options in OWN
    }
    assert [arch for arch, found in norms.items() if set(found) == {"Normalized"}] == ["all_cnn"]


@pytest.mark.parametrize(
    ("arch", "wrong", "says"),
    [
        ("all_cnn", {"width": 0}, "width must be a whole number"),
        ("densenet_bc", {"depth": 41}, "4 more than a multiple of 6, got 41"),
        ("densenet_bc", {"growth": 0}, "growth must be a whole number"),
        ("cifar_mobilenet_v2", {"width": 0.0}, r"a factor from 0\.05 to 8"),
        ("cifar_mobilenet_v2", {"in_channels": 0}, "in_channels must be a whole number"),
    ],
)
def test_options_that_are_none_are_refused(arch: str, wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        made(arch, wrong)
