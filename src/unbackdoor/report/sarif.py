"""A scan as SARIF 2.1.0, in the form that GitHub code scanning takes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from ..core.text import line
from ..core.version import __version__
from .scanpage import verdict

SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"
HOME = "https://github.com/unbackdoor/unbackdoor"
RULES = {
    "suspicious": {
        "id": "UNBACKDOOR001",
        "name": "SuspiciousModel",
        "short": "The model shows signs of a backdoor",
        "full": "A scanner gave the model a score that clean models of its kind rarely get. "
        "It may hold a backdoor that sends images with a secret trigger to one class.",
        "severity": "8.0",
        "level": "error",
    },
    "not judged": {
        "id": "UNBACKDOOR002",
        "name": "ModelNotJudged",
        "short": "The model could not be judged",
        "full": "The scanner could not say whether the model shows signs of a backdoor.",
        "severity": "2.0",
        "level": "note",
    },
}
"""What can be found, by outcome; the ids never change."""


def sarif(record: Mapping[str, Any], location: str) -> dict[str, Any]:
    """The SARIF log of a scan's `record`; `location` is the model's path in its repository."""
    found = list(RULES)
    return {
        "$schema": SCHEMA,
        "version": "2.1.0",
        "runs": [
            {
                "tool": {
                    "driver": {
                        "name": "unbackdoor",
                        "semanticVersion": __version__,
                        "informationUri": HOME,
                        "rules": [_rule(outcome) for outcome in found],
                    }
                },
                "automationDetails": {"id": f"unbackdoor-scan/{quote(location)}"},
                "results": [_result(record, location, found.index(record["outcome"]))]
                if record["outcome"] in RULES
                else [],
            }
        ],
    }


def _rule(outcome: str) -> dict[str, Any]:
    told = RULES[outcome]
    return {
        "id": told["id"],
        "name": told["name"],
        "shortDescription": {"text": told["short"]},
        "fullDescription": {"text": told["full"]},
        "helpUri": f"{HOME}/blob/main/docs/scan.md",
        "help": {"text": f"{told['full']} How to read a verdict: docs/scan.md."},
        "defaultConfiguration": {"level": told["level"]},
        "properties": {
            "tags": ["security", "machine-learning", "backdoor"],
            "precision": "medium",
            "security-severity": told["severity"],
        },
    }


def _result(record: Mapping[str, Any], location: str, index: int) -> dict[str, Any]:
    told, model = RULES[record["outcome"]], record["model"]
    said = verdict(record)
    return {
        "ruleId": told["id"],
        "ruleIndex": index,
        "level": told["level"],
        "message": {"text": line(f"{said.headline}. {' '.join(said.sentences)}")},
        "locations": [
            {
                "physicalLocation": {
                    "artifactLocation": {"uri": quote(location)},
                    "region": {"startLine": 1},
                }
            }
        ],
        "partialFingerprints": {
            # The only key that GitHub reads; without it, it hashes the first bytes of the file.
            "primaryLocationLineHash": f"{_fingerprint(record)[:16]}:1",
            "modelHash/v1": _fingerprint(record),
        },
        "properties": {
            "modelSha256": model["sha256"],
            "scanner": record["scanner"]["name"],
            "suspect": record["suspect"],
            "score": record["score"],
            "alarms": record["alarms"],
        },
    }


def _fingerprint(record: Mapping[str, Any]) -> str:
    """The same for the same model, finding and class; changes when the model does."""
    suspect = record["suspect"] and record["suspect"]["class"]
    parts = (record["model"]["sha256"], RULES[record["outcome"]]["id"], suspect)
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()
