"""A scan as a machine-learning bill of materials: CycloneDX 1.6, one component, its model card."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from ..core.text import line
from ..core.version import __version__
from .scanpage import limits, verdict


def cyclonedx(record: Mapping[str, Any]) -> dict[str, Any]:
    """The bill of materials of the model that `record` tells of."""
    model = record["model"]
    digest = model["sha256"]
    component: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"model-{digest or 'unhashed'}",
        "name": line(model["file"], 200),
        "modelCard": _card(record),
        "properties": [
            {"name": f"unbackdoor:scan:{name}", "value": value}
            for name, value in _properties(record).items()
        ],
    }
    if digest:
        component["hashes"] = [{"alg": "SHA-256", "content": digest}]
    named = uuid.uuid5(uuid.NAMESPACE_URL, f"unbackdoor/{digest}/{record['started']}")
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{named}",
        "version": 1,
        "metadata": {
            "timestamp": record["started"],
            "tools": {
                "components": [
                    {"type": "application", "name": "unbackdoor", "version": __version__}
                ]
            },
        },
        "components": [component],
    }


def _card(record: Mapping[str, Any]) -> dict[str, Any]:
    said = verdict(record)
    return {
        "modelParameters": {
            "task": "image classification",
            "modelArchitecture": line(record["model"]["arch"], 200),
        },
        "quantitativeAnalysis": {"performanceMetrics": _metrics(record)},
        "considerations": {
            "technicalLimitations": [line(text) for text in limits(record)],
            "ethicalConsiderations": [
                {"name": "Backdoor scan", "mitigationStrategy": line(" ".join(said.sentences))}
            ],
        },
    }


def _metrics(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    if record["accuracy"]:
        told = record["accuracy"]
        found.append(_rate("accuracy", told["value"], told["interval"]))
    if record["score"] is not None:
        found.append(
            {
                "type": f"backdoor score ({record['scanner']['name']})",
                "value": f"{record['score']:.6g}",
            }
        )
    if record["alarms"]:
        alarms = record["alarms"]
        value = alarms["false_alarms"]["value"]
        found.append(_rate("false alarm rate at the threshold", value, alarms["interval"]))
    return found


def _rate(kind: str, value: float, interval: Sequence[float]) -> dict[str, Any]:
    low, high = interval
    return {
        "type": kind,
        "value": f"{value:.4f}",
        "confidenceInterval": {"lowerBound": f"{low:.4f}", "upperBound": f"{high:.4f}"},
    }


def _properties(record: Mapping[str, Any]) -> dict[str, str]:
    told = {"outcome": record["outcome"], "scanner": record["scanner"]["name"]}
    if record["reason"]:
        told["reason"] = line(record["reason"])
    if record["suspect"]:
        told["suspect"] = line(str(record["suspect"]["name"]), 200)
    if record["alarms"]:
        told["p-value"] = f"{record['alarms']['p_value']:.4f}"
        told["threshold"] = f"{record['alarms']['threshold']:.6g}"
    return told
