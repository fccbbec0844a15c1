"""Records as the command line writes them, made up but of realistic shape."""

from __future__ import annotations

import base64
import io
import math
import random
from typing import Any

from PIL import Image

CIFAR = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PREACT = (64,) * 5 + (128,) * 5 + (256,) * 5 + (512,) * 5


def rate(hits: int, total: int) -> dict[str, float]:
    return {"hits": hits, "total": total, "value": hits / total if total else math.nan}


def scores(acc: Any = (9412, 10_000), asr: Any = (8883, 9000), ra: Any = (97, 9000)) -> Any:
    named = {"acc": acc, "asr": asr, "ra": ra}
    return {name: rate(*pair) if pair else None for name, pair in named.items()}


def png(seed: int, stamped: bool = False, side: int = 32) -> str:
    """A blurry blob on a gradient, with a white square in the corner where stamped."""
    rng = random.Random(seed)
    a, b = ([rng.randrange(40, 220) for _ in range(3)] for _ in range(2))
    x0, y0, r = rng.uniform(10, 22), rng.uniform(10, 22), rng.uniform(5, 10)
    picture = Image.new("RGB", (side, side))
    for y in range(side):
        for x in range(side):
            inside = 1 / (1 + math.exp(math.hypot(x - x0, y - y0) - r))
            dim = (1 - inside) * (0.6 + y / 80)
            shade = [round(p * dim + q * inside) for p, q in zip(a, b, strict=True)]
            picture.putpixel((x, y), tuple(min(255, value) for value in shade))
    if stamped:
        picture.paste((255, 255, 255), (side - 4, side - 4, side - 1, side - 1))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def layers(widths: Any = PREACT, p: int = 64, heavy: bool = False, seed: int = 0) -> Any:
    """Layers whose lowest (or, heavy-tailed, highest) 1/p channels are silenced."""
    rng, made = random.Random(seed), []
    for number, width in enumerate(widths):
        ranks = [
            math.exp(rng.gauss(0, 0.9)) if heavy else round(rng.betavariate(18, 2) * 64) / 64
            for _ in range(width)
        ]
        order = sorted(range(width), key=ranks.__getitem__, reverse=heavy)
        made.append(
            {
                "name": f"layer{1 + number // 5}.{number // 2 % 2}.conv{1 + number % 2}",
                "channels": width,
                "silenced": sorted(order[: max(1, width // p)]),
                "scores": ranks,
            }
        )
    return made


def example(seed: int, truth: str, *said: str) -> dict[str, Any]:
    before, stamped_before, after, stamped_after = said
    return {
        "truth": truth,
        "clean": png(seed),
        "stamped": png(seed, stamped=True),
        "before": {"clean": before, "stamped": stamped_before},
        "after": {"clean": after, "stamped": stamped_after},
    }


def record(**changes: Any) -> dict[str, Any]:
    """A repair with FMP that worked; `changes` replace its entries."""
    made: dict[str, Any] = {
        "format": 1,
        "kind": "repair",
        "command": "unbackdoor repair victim.safetensors --clean clean.parquet --test test.parquet "
        "--triggered triggered_test.parquet --target airplane --out repaired --seed 7",
        "unbackdoor": "0.1.0",
        "started": "2026-11-02T14:03:21+00:00",
        "model": {
            "file": "victim.safetensors",
            "sha256": "3f" * 32,
            "arch": "preact_resnet18",
            "classes": CIFAR,
            "options": {"width": 64},
            "mean": [0.4914, 0.4822, 0.4465],
            "std": [0.247, 0.243, 0.261],
            "parameters": 11_171_146,
        },
        "clean": {"source": "clean.parquet", "sha256": "a1" * 32, "images": 5000, "held_out": 500},
        "test": {"source": "test.parquet", "sha256": "b2" * 32, "images": 10_000},
        "triggered": {
            "source": "triggered_test.parquet",
            "sha256": "c3" * 32,
            "images": 10_000,
            "target": 0,
        },
        "defense": {
            "name": "fmp",
            "paper": "Huang & Bu, Adversarial Feature Map Pruning for Backdoor, ICLR 2024, "
            "arXiv 2307.11565",
            "limits": "Backdoors whose feature maps are also needed for clean images survive.",
            "parameters": {
                "eps": 1 / 255,
                "alpha": 0.02,
                "steps": 1,
                "ranking_images": 64,
                "p": 64,
                "hold": True,
                "epochs": 100,
                "lr": 0.01,
                "batch": 128,
                "weight_decay": 5e-4,
                "rank_by": "accuracy",
            },
        },
        "seed": 7,
        "device": "cpu",
        "precision": "bf16",
        "versions": {"python": "3.11.7", "torch": "2.14.0", "numpy": "2.4.1"},
        "machine": {"cpu": "Intel(R) Xeon(R) Processor @ 2.10GHz", "cores": 2},
        "seconds": {
            "load": 0.84,
            "measure before": 31.2,
            "ranking": 412.7,
            "fine-tuning": 903.4,
            "measure after": 30.9,
        },
        "peak_mib": 1893.4,
        "acc_on": "test images",
        "before": scores(),
        "after": scores((9297, 10_000), (117, 9000), (8127, 9000)),
        "agreement": {"hits": 9123, "total": 10_000, "value": 0.9123},
        "der": 0.9813,
        "layers": layers(),
        "score_name": "accuracy on the images that move the map",
        "notes": {"loss at the end": 0.01234},
        "warnings": [],
        "examples": [
            example(1, "cat", "cat", "airplane", "cat", "cat"),
            example(2, "ship", "ship", "airplane", "ship", "ship"),
            example(3, "frog", "frog", "airplane", "deer", "frog"),
            example(4, "automobile", "automobile", "airplane", "automobile", "airplane"),
            example(5, "horse", "dog", "airplane", "horse", "dog"),
            example(6, "deer", "deer", "airplane", "deer", "deer"),
        ],
        "output": {"file": "model.safetensors", "sha256": "d4" * 32},
    }
    return made | changes


def unstamped() -> dict[str, Any]:
    """A repair for which no triggered images and no test set were given."""
    acc = {"acc": rate(471, 500), "asr": None, "ra": None}
    pictures = record()["examples"][:4]
    for found in pictures:
        found["stamped"] = found["before"]["stamped"] = found["after"]["stamped"] = None
    return record(
        test=None,
        triggered=None,
        acc_on="held-out clean images",
        before=acc,
        after=acc | {"acc": rate(463, 500)},
        der=None,
        examples=pictures,
        warnings=["Only 500 images measure the accuracy: its interval is wide. Give --test."],
    )


def unchanged() -> dict[str, Any]:
    """A repair that did nothing."""
    return record(after=scores(), der=0.5)


def deep() -> dict[str, Any]:
    """A model of 120 layers, with a heavy-tailed ranking and 43 classes."""
    made = layers([64 + 16 * (number // 2) for number in range(120)], p=32, heavy=True)
    for number, layer in enumerate(made):
        block, unit = divmod(number, 30)
        layer["name"] = f"features.denseblock{block + 1}.denselayer{unit + 1}.conv{unit % 2 + 1}"
    classes = [f"Speed limit ({10 * n} km/h)" for n in range(1, 44)]
    found = record(layers=made, score_name="capacity that clean images leave unused")
    found["model"] |= {
        "arch": "torchvision:densenet121",
        "options": {"cifar_stem": True},
        "classes": classes,
    }
    found["examples"] = [
        example(n, classes[n], classes[n], classes[0], classes[n], classes[n]) for n in range(1, 7)
    ]
    return found


def empty() -> dict[str, Any]:
    """A record in which everything that may be null is, and every list is empty."""
    nothing = {"acc": None, "asr": None, "ra": None}
    made = record(
        test=None,
        triggered=None,
        before=nothing,
        after=None,
        der=None,
        layers=[],
        notes={},
        score_name=None,
        warnings=[],
        examples=[],
        seconds={},
    )
    made["clean"] |= {"sha256": None}
    return made


def demo() -> dict[str, Any]:
    """The demo on digits."""
    digits = [str(n) for n in range(10)]
    made = record(
        kind="demo",
        command="unbackdoor demo",
        before=scores((352, 360), (322, 324), (2, 324)),
        after=scores((349, 360), (3, 324), (309, 324)),
        der=0.9872,
        layers=layers((16, 32, 32, 64, 64)),
        attack={
            "name": "badnets",
            "paper": "Gu, Dolan-Gavitt & Garg, BadNets, 2017, arXiv 1708.06733",
            "parameters": {"target": 0, "all_to_all": False, "rate": 0.1, "epochs": 12},
        },
        clean_model={"acc": rate(354, 360)},
        examples=[example(n, str(n), str(n), "0", str(n), str(n)) for n in range(1, 5)],
    )
    made["model"] |= {"classes": digits, "parameters": 70_618}
    return made
