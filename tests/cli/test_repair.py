from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

FILES = {"model.safetensors", "record.json", "report.html", "model_card.md"}
THIN = (
    "warning: 3 of 3 classes have fewer than 20 clean images after a tenth was held out to measure "
    "ACC (fewest: bee, 5): a repair may cost accuracy on them\n"
)
THIN_ = re.escape(THIN)


def test_writes_a_model_a_record_a_report_and_a_card(run, repair, tiny, tmp_path):
    import json

    from unbackdoor.checkpoints import checkpoint
    from unbackdoor.core import files

    done = run(
        *repair,
        *("--test", tiny.test, "--triggered", tiny.triggered, "--target", "ant", "--seed", 3),
        *("--out", tmp_path / "out", "--json"),
    )
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES
    record = json.loads((tmp_path / "out" / "record.json").read_text())
    assert record == done.json
    for when in ("before", "after"):
        assert record[when].keys() == {"acc", "asr", "ra"}
        assert record[when]["acc"]["total"] == 9 and record[when]["asr"]["total"] == 8
        assert record[when]["asr"]["value"] == record[when]["asr"]["hits"] / 8
    assert record["agreement"]["total"] == 9
    assert record["seed"] == 3 and record["precision"] in ("float32", "bfloat16")
    assert record["defense"]["name"] == "fmp" and record["defense"]["parameters"]["p"] == 2
    assert record["defense"]["parameters"]["momentum"] == 0.9
    assert record["triggered"]["target"] == 0 and record["clean"]["held_out"] == 0
    assert record["model"]["sha256"] == files.sha256(tiny.model)
    assert record["clean"]["sha256"] == files.sha256(tiny.clean)
    written = tmp_path / "out" / "model.safetensors"
    assert record["output"]["sha256"] == files.sha256(written)
    assert record["seconds"].keys() >= {"ranking", "fine-tuning", "evaluation"}
    assert record["peak_mib"] > 10 and record["versions"].keys() >= {"python", "torch", "numpy"}
    assert sum(len(layer["silenced"]) for layer in record["layers"]) > 0
    assert all(len(layer["scores"]) == layer["channels"] for layer in record["layers"])
    assert 1 <= len(record["examples"]) <= 8
    assert record["examples"][0]["stamped"] and record["examples"][0]["after"]["stamped"]
    assert checkpoint.load(written).spec.classes == ("ant", "bee", "cat")
    assert checkpoint.provenance(written)["defense"]["name"] == "fmp"


def test_uat_repairs_unless_told_otherwise(run, tiny, tmp_path):
    given = ("repair", tiny.model, "--clean", tiny.clean, "--device", "cpu", "--json")
    few = ("-p", "epochs=1", "-p", "enough_images=1", "--out", tmp_path / "out")
    assert run(*given, *few).json["defense"]["name"] == "uat"


def test_digits_are_not_mirrored_unless_that_is_said(run, tmp_path):
    data = ("--data", "digits:test", "--arch", "preact_resnet18", "--model-option", "width=2")
    few = ("-p", "epochs=1", "--min-asr", 0, "--device", "cpu", "--json")
    victim = run("attack", "badnets", *data, *few, "--out", tmp_path / "v").json
    given = ("repair", tmp_path / "v" / "model.safetensors", "--clean", "digits:test", "--json")
    asked = ("--defense", "fine_tuning", "-p", "epochs=1", "--device", "cpu")
    plain = run(*given, *asked, "--out", tmp_path / "a").json
    said = run(*given, *asked, "-p", "flip=true", "--out", tmp_path / "b").json
    assert not victim["attack"]["parameters"]["flip"]
    assert [one["defense"]["parameters"]["flip"] for one in (plain, said)] == [False, True]


def test_the_written_model_scores_what_the_record_says(run, repair, tiny, tmp_path):
    measured = ("--test", tiny.test, "--triggered", tiny.triggered, "--target", 0, "--json")
    repaired = run(*repair, *measured, "--out", tmp_path / "out").json
    before = run("evaluate", tiny.model, *measured).json
    after = run("evaluate", tmp_path / "out" / "model.safetensors", *measured).json
    assert before["before"] == repaired["before"] and "after" not in before
    assert after["before"] == repaired["after"]


@pytest.mark.parametrize("defense", ["unit", "npd"])
def test_a_model_with_inserts_is_written_and_read_again(run, tiny, tmp_path, defense):
    measured = ("--test", tiny.test, "--triggered", tiny.triggered, "--target", 0, "--json")
    repaired = run(
        *("repair", tiny.model, "--clean", tiny.clean, "--defense", defense, "--device", "cpu"),
        *("-p", "epochs=1", "-p", "max_acc_drop=1", *measured, "--out", tmp_path / "out"),
    )
    assert repaired.code == 0, repaired.err
    after = run("evaluate", tmp_path / "out" / "model.safetensors", *measured)
    assert after.code == 0, after.err
    assert after.json["before"] == repaired.json["after"]


def test_without_a_test_set_a_tenth_is_held_out_from_the_defense(
    run, repair, tiny, tmp_path, monkeypatch
):
    from unbackdoor.defenses.fmp import FMP

    seen = []
    mend = FMP.mend
    monkeypatch.setattr(
        FMP,
        "mend",
        lambda self, model, clean, run: (seen.append(clean), mend(self, model, clean, run))[1],
    )
    record = run(*repair, "--out", tmp_path / "out", "--json").json
    assert record["clean"]["images"] == 20 and record["clean"]["held_out"] == 2
    assert record["before"]["acc"]["total"] == 2 and record["acc_on"] == "held-out clean images"
    assert len(seen[0]) == 18
    assert (
        record["after"]["asr"] is None and record["after"]["ra"] is None and record["der"] is None
    )


def test_two_runs_with_one_seed_give_the_same_bits(run, repair, tmp_path):
    for name in ("a", "b"):
        assert run(*repair, "--out", tmp_path / name, "--seed", 1).code == 0
    first, second = ((tmp_path / name / "model.safetensors") for name in ("a", "b"))
    from unbackdoor.checkpoints import checkpoint

    ours, theirs = (checkpoint.load(path).state_dict() for path in (first, second))
    assert all((ours[name] == theirs[name]).all() for name in ours)


def test_a_table_on_stdout_and_the_rest_on_stderr(run, repair, tmp_path):
    done = run(*repair, "--out", tmp_path / "out")
    assert "before" in done.out and "ACC" in done.out and "repairing" not in done.out
    assert "same class as before" in done.out
    assert "repairing with fmp" in done.err
    assert run(*repair, "--out", tmp_path / "quiet", "-q").err == THIN


def test_missed_bounds_are_exit_code_1_and_all_is_written(run, repair, tiny, tmp_path):
    done = run(
        *repair,
        *("--triggered", tiny.triggered, "--target", 0, "--max-asr", 0, "--max-acc-drop", 1),
        *("--out", tmp_path / "out", "--json"),
    )
    hits = done.json["after"]["asr"]["hits"]
    assert done.code == (1 if hits else 0)
    assert ("missed: ASR" in done.err) == bool(hits)
    assert (tmp_path / "out" / "record.json").exists()


def test_bounds_are_compared_with_what_was_measured():
    from unbackdoor.cli.inputs import Bounds
    from unbackdoor.core.measure import Rate, Score

    before, after = Score(Rate(9, 10), Rate(10, 10)), Score(Rate(8, 10), Rate(1, 10))
    assert Bounds(0.1, 0.11).missed(before, after) == []
    assert len(Bounds(0.05, 0.09).missed(before, after)) == 2


def test_a_folder_that_holds_files_needs_force_and_keeps_the_others(run, repair, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    (out / "record.json").write_text("old")
    refused = run(*repair, "--out", out)
    assert refused.code == 2 and "not empty" in refused.err and "--force" in refused.err
    assert (out / "record.json").read_text() == "old"
    assert run(*repair, "--out", out, "--force").code == 0
    assert {path.name for path in out.iterdir()} == {*FILES, "mine.txt"}
    assert (out / "record.json").read_text() != "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_images_of_the_test_set_among_the_clean_ones_are_told(run, repair, tiny, tmp_path):
    done = run(*repair, "--test", tiny.clean, "--out", tmp_path / "out", "--json")
    warned = [line for line in done.json["warnings"] if "20 of the test images" in line]
    assert warned and f"warning: {warned[0]}" in done.err


def test_a_failure_while_writing_leaves_nothing(run, repair, tmp_path, monkeypatch):
    from unbackdoor.cli import repairing

    def full(record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(repairing, "model_card", full)
    done = run(*repair, "--out", tmp_path / "deep" / "out", "-q")
    assert done.code == 2 and re.fullmatch(rf"{THIN_}error: .*No space left.*\n", done.err)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_leaves_nothing_and_is_one_line(run, repair, tmp_path, monkeypatch):
    from unbackdoor.cli import repairing

    def stop(record):
        raise KeyboardInterrupt

    monkeypatch.setattr(repairing, "repair_page", stop)
    done = run(*repair, "--out", tmp_path / "out", "-q")
    assert done.code == 130 and done.err == f"{THIN}interrupted\n" and done.out == ""
    assert [path.name for path in tmp_path.iterdir()] == [".out.begun"]


def test_a_stopped_repair_goes_on_and_gives_the_same_bits(run, repair, tmp_path, monkeypatch):
    from unbackdoor.checkpoints import checkpoint
    from unbackdoor.ranking.ranking import Ranker

    rank, names = Ranker.rank, []

    def stopping(self, layer, *args):
        names.append(layer.name)
        if len(names) == 4:
            raise KeyboardInterrupt
        return rank(self, layer, *args)

    assert run(*repair, "--out", tmp_path / "straight").code == 0
    monkeypatch.setattr(Ranker, "rank", stopping)
    stopped = run(*repair, "--out", tmp_path / "out")
    assert stopped.code == 130 and "the same command goes on" in stopped.err
    assert not (tmp_path / "out").exists()
    done = run(*repair, "--out", tmp_path / "out", "--json", "--profile")
    assert done.code == 0 and done.json["seconds"]["ranking"] > 0
    assert len(names) == 4 + 20 - 3 and names[3] == names[4] and len(set(names)) == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "straight"]
    ours, theirs = (
        checkpoint.load(tmp_path / name / "model.safetensors").state_dict()
        for name in ("straight", "out")
    )
    assert all((ours[key] == theirs[key]).all() for key in ours)


def test_the_profile_is_a_table_on_stderr(run, repair, tmp_path):
    done = run(*repair, "--out", tmp_path / "out", "--json", "--profile", "-q")
    lines = [line.split() for line in done.err.splitlines()]
    shares = {line[0]: int(line[-2]) for line in lines if line and line[-1] == "%"}
    assert list(shares) == ["evaluation", "ranking", "fine-tuning", "rest", "all"]
    assert shares.pop("all") == 100 and abs(sum(shares.values()) - 100) <= 2
    assert done.json["seconds"].keys() == {"evaluation", "ranking", "fine-tuning"}


def test_progress_names_the_layer_and_the_time_left(capsys, monkeypatch):
    from unbackdoor.cli import console

    now = [0.0]
    monkeypatch.setattr(console.time, "perf_counter", lambda: now[0])
    with console.Console() as shown:
        shown.progress("ranking", 50, 100)  # half was done before a stop
        for done in (60, 100):
            now[0] += 6
            shown.part("ranking", "stage1.conv2")
            shown.progress("ranking", done, 100)
        shown.progress("evaluation", 0, 10)
        now[0] += 6
        shown.progress("evaluation", 5, 10)
    assert capsys.readouterr().err.splitlines() == [
        "ranking: 50 % were done before",
        "ranking stage1.conv2: 60 %, about 24 s left",
        "ranking: done in 12 s",
        "evaluation: 50 %, about 6 s left",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_and_a_kill_leave_nothing_that_looks_whole(repair, tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
    limited = (
        "import resource, sys; from unbackdoor.cli import main; import unbackdoor.cli.repairing;"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); sys.exit(main(sys.argv[1:]))"
    )
    slow = "import sys; from unbackdoor.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = [str(part) for part in repair]

    def start(code: str, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", code, *arguments, *more]
        return subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
        )

    full = start(limited, "--out", str(tmp_path / "full"), "-q")
    killed = start(slow, "--out", str(tmp_path / "killed"), "-p", "lr=0.001", "-p", "batch=2")
    # Another parameter list would be refused: batch is not in the arguments above.
    for line in killed.stderr or ():
        if "repairing" in line:
            break
    time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    _, told = full.communicate(timeout=120)
    assert full.returncode == 2 and re.fullmatch(rf"{THIN_}error: .*File too large.*\n", told), told
    left = [path for path in Path(tmp_path).iterdir() if not path.name.startswith(".")]
    assert left == []
