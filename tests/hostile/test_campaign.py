"""The campaign sees what it must; a tenth of the hostile inputs here, the rest if slow."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hostile import campaign, proof
from hostile.watch import PROBLEMS

TESTS = Path(__file__).parents[1]
SOURCE = TESTS.parent / "src"


def run(tmp_path, *arguments, module="campaign"):
    """The counts of a campaign in a process of its own, which may fork; and what it printed."""
    counts = tmp_path / "counts.json"
    paths = os.pathsep.join(map(os.fspath, (SOURCE, TESTS)))
    done = subprocess.run(
        [sys.executable, "-m", "hostile.campaign", "--json", counts, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
    )
    assert counts.exists(), done.stderr
    return json.loads(counts.read_text()), done


def test_whatever_goes_wrong_in_a_run_is_seen_and_counted(tmp_path):
    told, done = run(tmp_path, "--proof", "--seconds", "2", "--mib", "200")
    for name, (problem, _) in proof.SEEN.items():
        assert f"{problem}: proof: {name}" in done.stdout, name
    assert told["inputs"] == len(proof.SEEN) + 2
    assert told["refused"] == 1 and told["read"] == 1, "what is harmless is not blamed"
    assert all(told[problem] for problem in PROBLEMS) and done.returncode == 1


def test_there_are_enough_inputs_of_every_reader():
    readers = [one.reader for one in campaign.corpus()]
    assert len(readers) >= 300
    assert set(readers) == {
        *("torch", "module", "torchscript", "safetensors", "npz", "parquet", "image", "folder"),
        *("backdoorbench", "hub", "grid", "results", "calibration"),
    }


@pytest.mark.parametrize("part", ["tenth", pytest.param("rest", marks=pytest.mark.slow)])
def test_hostile_inputs_do_no_harm(tmp_path, part):
    told, done = run(tmp_path, "--part", part)
    assert done.returncode == 0, done.stdout
    assert told["refused"] + told["read"] == told["inputs"]
