from __future__ import annotations

import json

import pytest

from unbackdoor.cli import main

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("seed", [0, 1])
def test_the_demo_tells_a_true_story(tmp_path, capsys, seed):
    out = tmp_path / "demo"
    assert main(["demo", "--out", str(out), "--seed", str(seed), "--json", "-q"]) == 0
    record = json.loads(capsys.readouterr().out)
    before, after = (
        {name: rate["value"] for name, rate in record[when].items()} for when in ("before", "after")
    )
    assert before["asr"] >= 0.9 and after["asr"] <= 0.05
    assert before["acc"] - after["acc"] <= 0.03
    assert abs(after["acc"] - after["ra"]) <= 0.05
    assert record["kind"] == "demo" and record["attack"]["name"] == "badnets"
    assert "<html" in (out / "report.html").read_text(encoding="utf-8")
