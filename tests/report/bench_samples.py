"""The folder of a bench as results leave it, made up but of realistic shape."""

from __future__ import annotations

import random
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from report.samples import CIFAR, PREACT, png
from unbackdoor.bench.store import FORMAT, Store, identity

PAPERS = {
    "badnets": "Gu, Dolan-Gavitt, Garg: BadNets, 2017, arXiv 1708.06733",
    "blended": "Chen, Liu, Li, Lu, Song: Targeted Backdoor Attacks, 2017, arXiv 1712.05526",
    "wanet": "Nguyen, Tran: WaNet, ICLR 2021, arXiv 2102.10369",
    "fmp": "Huang, Bu: Adversarial Feature Map Pruning for Backdoor, ICLR 2024",
}
STRENGTH = {
    "fine_tuning": 0.6,
    "fmp": 0.12,
    "anp": 0.2,
    "clp": 0.3,
    "uat": 0.05,
    "nad": 0.35,
}
HARD = {"badnets": 0.7, "blended": 1.1, "wanet": 0.9, "lf": 1.2, "ssba": 1.0}
SECONDS = {
    "fine_tuning": 210,
    "fmp": 640,
    "anp": 330,
    "clp": 1.4,
    "uat": 38,
    "nad": 250,
}


PICTURE = cache(png)


def rate(value: float, total: int) -> dict[str, float]:
    hits = min(total, max(0, round(value * total)))
    return {"hits": hits, "total": total, "value": hits / total}


def folder(
    path: Path,
    *,
    attacks: tuple[Any, ...] = ("badnets", "blended", "wanet"),
    defenses: tuple[Any, ...] = tuple(STRENGTH),
    seeds: int = 3,
    rates: tuple[float, ...] = (0.1,),
    budgets: tuple[Any, ...] = (0.05,),
    data: tuple[Any, ...] = ("cifar10",),
    widths: tuple[int, ...] = (64,),
    epochs: int = 100,
    precision: str = "auto",
) -> Path:
    """Writes results of every cell but a failed and a missing one, and their plan.

    Several grids may go into one folder.
    """
    store, rng = Store(path), random.Random(0)
    victims, plan, tables = [], [], [_defense(name) for name in defenses]
    kinds = [
        {"rate": rate, "epochs": epochs, **_named(attack)} for attack in attacks for rate in rates
    ]
    for name, width in product(data, widths):
        for seed in range(seeds):
            for attack in (None, *kinds):
                victim = _victim(_named(name), width, attack, seed, epochs, precision)
                score = _score(
                    0.93 + rng.gauss(0, 0.002), 0.97 - rng.random() / 30 if attack else None
                )
                record = _victim_record(victim, score)
                store.write("victims", record["id"], record)
                victims.append({"id": record["id"], **victim})
                for place, defense in enumerate(tables):
                    for budget in budgets:
                        cell = {"victim": victim, "defense": defense, "budget": budget}
                        told = _cell(cell, record, rng)
                        plan.append([told["id"], len(victims) - 1, place, budget])
                        if len(plan) % 29 == 11:
                            continue
                        if len(plan) % 37 == 17:
                            told = _failed(told)
                        store.write("cells", told["id"], told)
    methods = {
        "attack": {table["name"]: _method(table["name"]) for table in kinds},
        "defense": {table["name"]: _method(table["name"]) for table in tables},
    }
    store.write(
        "plan",
        identity({"cells": [name for name, *_ in plan]}),
        {
            "format": FORMAT,
            "victims": victims,
            "defenses": tables,
            "cells": plan,
            "methods": methods,
        },
    )
    return path


def _named(told: Any) -> dict[str, Any]:
    return {"name": told} if isinstance(told, str) else told


def _defense(told: Any) -> dict[str, Any]:
    return {"held_out": 0.1, "max_acc_drop": 0.2, "epochs": 20, **_named(told)}


def _victim(
    data: Any, width: int, attack: Any, seed: int, epochs: int, precision: str
) -> dict[str, Any]:
    name, known = data["name"], {"target": 0, "all_to_all": False, "count": None}
    return {
        "data": {"train": f"{name}:train", "test": f"{name}:test", "size": None, **data},
        "architecture": {"name": "preact_resnet18", "options": {"width": width}},
        "attack": known | attack if attack else None,
        "training": None if attack else {"epochs": epochs, "lr": 0.01},
        "seed": seed,
        "precision": precision,
    }


def _score(acc: float, asr: float | None) -> dict[str, Any]:
    return {
        "acc": rate(acc, 10_000),
        "asr": rate(asr, 9000) if asr is not None else None,
        "ra": rate((1 - asr) * 0.95 * acc, 9000) if asr is not None else None,
    }


def _made(seconds: float) -> dict[str, Any]:
    return {
        "warnings": [],
        "unbackdoor": "0.1.0",
        "started": "2026-11-22T20:00:00+00:00",
        "threads": 2,
        "device": "cpu",
        "precision": "float32",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "machine": {"cpu": "A processor", "cores": 2},
        "seconds": {"fine-tuning": seconds},
        "peak_mib": 1200.0,
        "spent": {"repair": seconds, "measure": 2.5, "all": seconds + 2.8},
    }


def _victim_record(victim: dict[str, Any], score: dict[str, Any]) -> dict[str, Any]:
    kinds = ("clean", "stamped") if victim["attack"] else ("clean",)
    return {
        "format": FORMAT,
        "kind": "victim",
        "id": identity({"victim": victim}),
        "victim": victim,
        "status": "done",
        "score": score,
        "learned": {
            "clean": rate(0.97, 5000),
            **({"relabelled": rate(0.99, 5000)} if victim["attack"] else {}),
        },
        "linear": rate(0.38, 10_000),
        "min_asr": 0.9,
        "flags": ["undertrained-victim"] if victim["seed"] == 1 else [],
        "classes": CIFAR,
        "parameters": 11_171_146,
        "images": {"train": 50_000, "test": 10_000, "stamped": 9000},
        "examples": [
            {
                "truth": place + 1,
                "said": {"clean": place + 1, **({"stamped": 0} if victim["attack"] else {})},
                "png": {kind: PICTURE(place, kind == "stamped") for kind in kinds},
            }
            for place in range(4)
        ],
        **_made(4000.0),
    }


def _cell(cell: dict[str, Any], victim: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    name, attack = cell["defense"]["name"], cell["victim"]["attack"]
    kept = 1 / (1 + 20 * cell["budget"]) * 2 if cell["budget"] < 1 else 1
    strength = STRENGTH[name] * kept * (1.2 - 2 * (attack["rate"] if attack else 0))
    asr = (
        min(1.0, abs(strength * HARD[attack["name"]] * (1 + rng.gauss(0, 0.15))))
        if attack
        else None
    )
    acc = victim["score"]["acc"]["value"] - abs(rng.gauss(0.012, 0.005))
    seconds = SECONDS[name] * (1 + rng.random() / 10)
    layers = [
        {
            "name": f"net.layer{at}.conv",
            "channels": n,
            "silenced": list(range(0, n, 32)),
            "scores": None,
        }
        for at, n in enumerate(PREACT)
    ]
    return {
        "format": FORMAT,
        "kind": "cell",
        "id": identity({"cell": cell}),
        "victim": victim["id"],
        "cell": cell,
        "before": victim["score"],
        "status": "done",
        "defense": {
            "name": name,
            "paper": PAPERS.get(name, name),
            "limits": "some",
            "parameters": {},
        },
        "after": _score(acc, asr),
        "der": None if asr is None else (max(0, victim["score"]["asr"]["value"] - asr) + 0.99) / 2,
        "linear": rate(0.38, 10_000),
        "flags": ["unchanged"] if name == "clp" and cell["victim"]["seed"] == 0 else [],
        "images": {**victim["images"], "clean": 2500, "clean_in_test": 0},
        "layers": layers if name in ("fmp", "clp") else [],
        "notes": {"passes": 21.5},
        "examples": [
            {"said": {"clean": at + 1, **({"stamped": at + 1 if at else 0} if attack else {})}}
            for at in range(4)
        ],
        **_made(seconds),
    }


def _failed(cell: dict[str, Any]) -> dict[str, Any]:
    kept = ("format", "kind", "id", "victim", "cell", "before", "unbackdoor", "started", "threads")
    kept += ("device", "precision", "versions", "machine", "seconds", "peak_mib", "warnings")
    return {
        **{key: cell[key] for key in kept},
        "status": "failed",
        "error": "RuntimeError: out of memory <b>&",
        "traceback": 'Traceback (most recent call last):\n  File "unbackdoor/x.py", line 3\n',
        "flags": [],
        "spent": {"all": 3.0},
    }


def _method(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "summary": f"What {name} does.",
        "paper": PAPERS.get(name, f"{name}: a paper"),
        "limits": "is known not to stop everything",
        "parameters": {
            "epochs": {
                "type": "integer",
                "default": 20,
                "bounds": {">=": 0},
                "description": "passes over the clean images",
            }
        },
    }
