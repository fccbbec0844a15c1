"""Folders of the hub whose JSON names code, lies about the weights beside it, or blows up."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from . import opcodes as op
from .inputs import CANARY, DIGITS, EITHER, REFUSED, TEXTS, Input, sparse, written
from .samples import small_model

CONVERT = ["convert", "hub", "out/m.safetensors"]
VIT = {
    "model_type": "vit",
    "architectures": ["ViTForImageClassification"],
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 16,
    "patch_size": 4,
    "id2label": {"0": "cat", "1": "dog"},
}
RESNET = {
    "model_type": "resnet",
    "architectures": ["ResNetForImageClassification"],
    "embedding_size": 4,
    "hidden_sizes": [4, 8],
    "depths": [1, 1],
    "layer_type": "basic",
    "id2label": {"0": "cat", "1": "dog"},
}
TIMM = {"architecture": "resnet18", "num_classes": 2, "pretrained_cfg": {"input_size": [3, 16, 16]}}
NESTED = "[" * 100_000 + "]" * 100_000

CONFIGS: dict[str, Any] = {
    "code of its own": VIT | {"auto_map": {"AutoModel": "evil.Net"}, "trust_remote_code": True},
    "a network that is code": TIMM | {"architecture": "os:system"},
    "a network of another hub": TIMM | {"architecture": "hf-hub:someone/model"},
    "a network that is a path": TIMM | {"architecture": "../../evil.py:x"},
    "a network of 300,000 letters": TIMM | {"architecture": "x" * 300_000},
    "options that fetch": TIMM
    | {"model_args": {"pretrained_cfg": {"url": "http://127.0.0.1:9/x"}}},
    "options that name a file": TIMM | {"model_args": {"checkpoint_path": "/etc/passwd"}},
    "options that name code": TIMM | {"model_args": {"act_layer": "os.system"}},
    "options that are a list": TIMM | {"model_args": [1]},
    "options of 10^9 channels": TIMM | {"model_args": {"in_chans": 10**9}},
    "another kind of model": VIT | {"model_type": "auto"},
    "a kind that is a path": VIT | {"model_type": "../../evil"},
    "a kind that is a dunder": VIT | {"model_type": "__class__"},
    "a model that is no classifier": VIT | {"architectures": ["os.system"]},
    "architectures of numbers": VIT | {"architectures": [[[]]]},
    "10^6 layers": VIT | {"num_hidden_layers": 10**6},
    "10^9 numbers a layer": VIT | {"hidden_size": 10**9, "num_attention_heads": 1},
    "an image of 10^6 pixels a side": VIT | {"image_size": 10**6, "patch_size": 1},
    "a patch of 0": VIT | {"patch_size": 0},
    "no heads": VIT | {"num_attention_heads": 0},
    "a size of -1": VIT | {"hidden_size": -1},
    "a size of 1e999": None,
    "depths of 10^6": RESNET | {"depths": [10**6, 10**6]},
    "10^6 depths": RESNET | {"depths": [1] * 10**6, "hidden_sizes": [4] * 10**6},
    "depths in lists": RESNET | {"depths": [[1]]},
    "a text for a depth": RESNET | {"depths": "11"},
    "an activation that is code": VIT | {"hidden_act": "os.system"},
    "a window of 10,000": {
        "model_type": "swin",
        "image_size": 20_000,
        "patch_size": 1,
        "window_size": 10_000,
        "embed_dim": 4,
        "depths": [1],
        "num_heads": [1],
        "id2label": {"0": "a", "1": "b"},
    },
    "a window of 300": {
        "model_type": "swinv2",
        "image_size": 600,
        "patch_size": 1,
        "window_size": 300,
        "embed_dim": 4,
        "depths": [1],
        "num_heads": [1],
        "id2label": {"0": "a", "1": "b"},
    },
    "classes from 1 on": VIT | {"id2label": {"1": "a", "2": "b"}},
    "classes of numbers": VIT | {"id2label": {"0": 1, "1": [2]}},
    "classes in a list": VIT | {"id2label": ["a", "b"]},
    "100,000 classes": VIT | {"id2label": {str(n): str(n) for n in range(100_000)}},
    "10^12 classes": TIMM | {"num_classes": 10**12},
    "-1 classes": TIMM | {"num_classes": -1},
    "half a class": TIMM | {"num_classes": 1.5},
    "classes in timm's list": TIMM | {"label_names": {"a": 1}},
    "an input of 10^12": TIMM | {"pretrained_cfg": {"input_size": [3, 10**12, 1]}},
    "an input of texts": TIMM | {"pretrained_cfg": {"input_size": ["3", "a", "b"]}},
    "a mean of texts": TIMM | {"pretrained_cfg": {"mean": ["a"], "std": ["b"]}},
    "a mean of 10^400": None,
    "nothing": {},
    "a list": [],
    "a text": "vit",
    "null": None,
}
RAW: dict[str, str] = {
    "a size of 1e999": json.dumps(VIT | {"hidden_size": "X"}).replace('"X"', "1e999"),
    "a mean of 10^400": json.dumps(TIMM | {"pretrained_cfg": {"mean": "X", "std": "X"}}).replace(
        '"X"', f"[1{'0' * 400}]"
    ),
    "null": "null",
    "a size of 5,000 digits": json.dumps(VIT | {"hidden_size": "X"}).replace('"X"', DIGITS),
    "a size of NaN": json.dumps(VIT | {"hidden_size": float("nan")}),
    "lists 100,000 deep": '{"model_type": "vit", "a": ' + NESTED + "}",
    "15 MB of lists": '{"model_type": "vit", "a": [' + "[]," * (5 * 10**6) + "[]]}",
    "one key twice": '{"model_type": "vit", "model_type": "os:system", "architecture": "os:x"}',
    "half a file": '{"model_type": "vi',
    "no text": "\ud800{",
    "nothing at all": "",
}
PREPROCESSORS: dict[str, str] = {
    "a factor of 0": '{"rescale_factor": 0}',
    "a factor of 1e-320": '{"rescale_factor": 1e-320, "image_mean": [1,1,1], "image_std": [1,1,1]}',
    "a factor of text": '{"rescale_factor": "x"}',
    "a factor of 1e308": '{"rescale_factor": 1e308}',
    "a mean of text": '{"image_mean": ["a"], "image_std": [1]}',
    "a std of 0": '{"image_mean": [0,0,0], "image_std": [0,0,0]}',
    "a mean of 5,000 digits": f'{{"image_mean": [{DIGITS}], "image_std": [1]}}',
    "a mean of 10^400": f'{{"image_mean": [1{"0" * 400}], "image_std": [1]}}',
    "a size of 10^12": '{"size": {"height": 1000000000000, "width": 1}}',
    "a size of text": '{"size": {"height": "a", "width": []}}',
    "a size of -1": '{"size": -1}',
    "a list": "[]",
    "no JSON": "{",
    "an edge of 10^12": '{"size": {"shortest_edge": 1000000000000}}',
    "a crop of text": '{"do_center_crop": "x", "crop_size": "y", "crop_pct": []}',
}


def hub(folder: Path, config: Any = VIT, preprocessor: str | None = None) -> list[str]:
    """A folder with this JSON and some weights, and code beside them that must not run."""
    text = config if isinstance(config, str) else json.dumps(config)
    written(folder / "hub" / "config.json", text)
    if preprocessor is not None:
        written(folder / "hub" / "preprocessor_config.json", preprocessor)
    for name in ("evil.py", "modeling.py", "__init__.py", "setup.py", "torch.py"):
        written(folder / "hub" / name, f"open({str(folder / CANARY)!r}, 'w')\n")
    save_file({"classifier.weight": torch.ones(2, 8)}, folder / "hub" / "model.safetensors")
    return CONVERT


def index(places: Any) -> Callable[[Path], None]:
    """Weights in several files, which an index names."""

    def make(root: Path) -> None:
        (root / "model.safetensors").unlink()
        written(root / "model.safetensors.index.json", json.dumps({"weight_map": places}))

    return make


def pickled(root: Path) -> None:
    (root / "model.safetensors").unlink()
    op.in_zip(
        root / "pytorch_model.bin", op.steps(op.called("os.system", op.text(f"touch {CANARY}")))
    )


def replaced(name: str, target: str) -> Callable[[Path], None]:
    def make(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).symlink_to(target)

    return make


FILES: dict[str, Callable[[Path], object]] = {
    "an index that names a path": index({"a": "../../../etc/passwd"}),
    "an index that names /dev/zero": index({"a": "/dev/zero"}),
    "an index that names itself": index({"a": "model.safetensors.index.json"}),
    "an index that names its folder": index({"a": "."}),
    "an index that names nothing": index({"a": ""}),
    "an index of numbers": index({"a": [1]}),
    "an index that is a list": index(["a"]),
    "an index of 100,000 files": index({str(n): f"{n}.bin" for n in range(100_000)}),
    "an index of escapes": index({"a": "\x1b[31m\u202e"}),
    "an index of a NUL": index({"a": "a\0b"}),
    "weights that are a pickle": pickled,
    "weights that are a link to /dev/zero": replaced("model.safetensors", "/dev/zero"),
    "weights that are a link to a loop": replaced("model.safetensors", "model.safetensors"),
    "a config that is a link to /dev/zero": replaced("config.json", "/dev/zero"),
    "a config that is a link to a secret": replaced("config.json", "/etc/passwd"),
    "a config of 10 GB of nothing": lambda root: sparse(root / "config.json", 10**10, b"{"),
    "no weights": lambda root: (root / "model.safetensors").unlink(),
    "weights that are a folder": lambda root: (
        (root / "model.safetensors").unlink(),
        (root / "model.safetensors").mkdir(),
    ),
}


def inputs() -> Iterator[Input]:
    for name, config in (CONFIGS | RAW).items():
        yield Input("hub", f"a config of {name}", lambda folder, c=config: hub(folder, c), EITHER)
    for name, text in PREPROCESSORS.items():
        yield Input(
            "hub", f"a preprocessor of {name}", lambda folder, t=text: hub(folder, VIT, t), REFUSED
        )
    for name, change in FILES.items():

        def make(folder: Path, change: Callable[[Path], object] = change) -> list[str]:
            hub(folder)
            change(folder / "hub")
            return ["inspect", "hub"] if len(folder.name) % 2 else CONVERT

        yield Input("hub", name, make, REFUSED)
    for place, (name, text) in enumerate(TEXTS.items()):
        config = [
            VIT | {"id2label": {"0": text, "1": "b"}},
            TIMM | {"architecture": text},
            VIT | {"model_type": text},
            VIT | {"architectures": [text]},
        ][place % 4]
        yield Input(
            "hub",
            f"{name} in a config",
            lambda folder, c=config: (hub(folder, c), ["inspect", "hub"])[1],
            EITHER,
        )

    def beside(folder: Path) -> list[str]:
        hub(folder, TIMM | {"architecture": "os:system"})
        small_model(folder / "hub" / "model.safetensors")
        return ["convert", "hub/model.safetensors", "out/m.safetensors"]

    yield Input("hub", "a good file beside a config that is code", beside, EITHER)
