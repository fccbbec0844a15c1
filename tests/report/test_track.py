"""Numbers on their way to a tracker; MLflow is made up, TensorBoard is read back where it is."""

from __future__ import annotations

import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest

from report.test_spread import ROW
from unbackdoor.core.errors import OutputError, ParameterError
from unbackdoor.report import track

ROWS = [
    replace(ROW, id="a", seed=0, flags=("weak-victim", "constant")),
    replace(ROW, id="b", seed=1, asr=None),
    replace(ROW, id="c", seed=2, status="failed", acc=None),
]


class Server:
    """As much of an MLflow server as is asked for; two runs a page."""

    def __init__(self):
        self.runs = []

    def get_experiment_by_name(self, name):
        return SimpleNamespace(experiment_id="1") if self.runs else None

    def create_experiment(self, name):
        return "1"

    def search_runs(self, experiments, max_results, page_token):
        class Page(list):
            token = None

        at = int(page_token or 0)
        page = Page(self.runs[at : at + 2])
        page.token = str(at + 2) if len(self.runs) > at + 2 else None
        return page

    def create_run(self, place, tags):
        info = SimpleNamespace(run_id=len(self.runs), status="RUNNING")
        self.runs.append(SimpleNamespace(info=info, data=SimpleNamespace(tags=tags), told={}))
        return self.runs[-1]

    def log_batch(self, run, metrics, params):
        self.runs[run].told = {key: value for key, value, *_ in (*metrics, *params)}

    def set_terminated(self, run):
        self.runs[run].info.status = "FINISHED"


@pytest.fixture
def server(monkeypatch):
    made, mlflow, entities = Server(), ModuleType("mlflow"), ModuleType("mlflow.entities")
    mlflow.MlflowClient = lambda: made
    mlflow.exceptions = SimpleNamespace(MlflowException=ConnectionError)
    entities.Metric = entities.Param = lambda *parts: parts
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setitem(sys.modules, "mlflow.entities", entities)
    monkeypatch.delenv("MLFLOW_DISABLE_TELEMETRY", raising=False)
    return made


def test_mlflow_gets_every_done_cell_once(server, monkeypatch):
    import os

    assert track.to_mlflow(ROWS, "bench") == 2
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
    first, second = server.runs
    assert first.told["acc"] == 0.9 and first.told["asr"] == 0.2 and first.told["seconds"] == 3.0
    assert first.told["defense"] == "fmp" and first.told["flags"] == "weak-victim constant"
    assert "asr" not in second.told
    assert first.data.tags["mlflow.runName"] == "digits/net/badnets/0.1/0.05/fmp/seed0"
    assert track.to_mlflow([*ROWS, replace(ROW, id="d"), replace(ROW, id="e")], "bench") == 2
    assert track.to_mlflow(ROWS, "bench") == 0 and len(server.runs) == 4
    server.runs[0].info.status = "RUNNING"  # stopped in the middle: told again
    assert track.to_mlflow(ROWS, "bench") == 1


def test_what_the_server_says_is_one_line(server):
    def away(*_):
        raise ConnectionError("no\nserver")

    sys.modules["mlflow"].MlflowClient = away
    with pytest.raises(OutputError, match="mlflow: no server"):
        track.to_mlflow(ROWS, "bench")


def test_no_name_leads_out_of_the_folder():
    row = replace(ROW, data="digits train=npz:/a/../../b.npz")
    assert track._place(row).parts[0] == "digits train=npz:-a-..-..-b.npz"
    assert len(track._place(row).parts) == 6


@pytest.mark.parametrize("name", ["mlflow", "tensorboard"])
def test_what_is_not_installed_is_named(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    send = {"mlflow": track.to_mlflow, "tensorboard": track.to_tensorboard}[name]
    with pytest.raises(ParameterError, match=f"--track {name} needs {name}: pip install"):
        send(ROWS, tmp_path)


def test_tensorboard_reads_what_was_written(tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # the second run replaces the first
        assert track.to_tensorboard(ROWS, tmp_path) == 2
    (events,) = tmp_path.rglob(track.EVENTS)
    assert events.parent == tmp_path / "digits" / "net" / "badnets" / "0.1" / "0.05" / "fmp"
    found = EventAccumulator(str(events.parent)).Reload()
    assert [(told.step, told.value) for told in found.Scalars("acc")] == [
        (0, pytest.approx(0.9)),
        (1, pytest.approx(0.9)),
    ]
    assert [told.step for told in found.Scalars("asr")] == [0]
