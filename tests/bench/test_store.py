from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from unbackdoor.bench.store import Store
from unbackdoor.core.errors import OutputError


def test_a_record_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    store = Store(tmp_path / "new")
    assert store.read("cells", "a") is None and not list(store.all("cells"))
    store.write("cells", "a", {"x": 1})
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "disk full")))
    with pytest.raises(OutputError, match="disk full"):
        store.write("cells", "a", {"x": 2})
    with pytest.raises(OutputError, match="disk full"):
        store.write("cells", "b", {"x": 2})
    assert list(store.all("cells")) == [{"x": 1}]
    assert [path.name for path in (tmp_path / "new" / "cells").iterdir()] == ["a.json"]


def test_what_a_killed_writer_left_is_swept(tmp_path):
    store = Store(tmp_path)
    store.write("cells", "a", {})
    (tmp_path / "cells" / ".a.json.123.part").write_text("{")
    store.write("cells", "a", {"x": 1})
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["a.json"]


def test_what_is_no_result_is_refused(tmp_path):
    store = Store(tmp_path)
    store.write("cells", "a", {})
    store.path("cells", "a").write_text("{")
    with pytest.raises(OutputError, match=r"a\.json is no result"):
        store.read("cells", "a")
    with pytest.raises(ValueError, match="Out of range"):
        store.write("cells", "b", {"x": float("nan")})


def test_a_claim_is_one_processes_and_ends_with_it(tmp_path):
    store = Store(tmp_path)
    code = (
        "import sys, time; from pathlib import Path; from unbackdoor.bench.store import Store\n"
        "with Store(Path(sys.argv[1])).claimed('a') as ours:\n"
        "    print(ours, flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE)
    assert other.stdout and other.stdout.readline() == b"True\n"
    with store.claimed("a") as ours, store.claimed("b") as free:
        assert not ours and free
        with store.claimed("b") as twice:
            assert not twice
    other.send_signal(signal.SIGKILL)
    other.wait()
    other.stdout.close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        with store.claimed("a") as ours:
            if ours:
                return
    raise AssertionError("the claim of a dead process was not taken over")


def test_what_was_begun_stays_after_a_stop_and_goes_at_the_end(tmp_path):
    store = Store(tmp_path)
    with pytest.raises(KeyboardInterrupt), store.begun("a") as folder:
        folder.mkdir(parents=True)
        raise KeyboardInterrupt
    assert folder.is_dir()
    with store.begun("a") as again:
        assert again == folder
    assert not folder.exists()


def test_the_store_knows_no_torch():
    code = (
        "import sys, unbackdoor.bench.store, unbackdoor.bench.flags; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
