"""The numbers of a bench, sent to where a team already looks: TensorBoard or MLflow.

Both are optional (extra `track`). Nothing is sent twice.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

from ..core.errors import OutputError, ParameterError
from .results import Row
from .spread import NUMBERS

EVENTS = "events.out.tfevents.*"
CELL = "unbackdoor.cell"
"""The tag of an MLflow run that says which cell it is."""


def to_tensorboard(rows: Sequence[Row], folder: Path) -> int:
    """Writes a run for all seeds of a cell into `folder`, a step a seed; how many cells it tells.

    Raises `ParameterError` where tensorboard is not installed.
    """
    writers = _needed("tensorboard.summary.writer.event_file_writer")
    event, summary = (
        _needed(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary")
    )
    runs: dict[Path, list[Row]] = {}
    for row in _done(rows):
        runs.setdefault(folder / _place(row), []).append(row)
    for place, own in runs.items():
        for old in place.glob(EVENTS):
            old.unlink()
        writer = writers.EventFileWriter(str(place))
        for row in own:
            values = [summary.Summary.Value(tag=k, simple_value=v) for k, v in _numbers(row)]
            told = summary.Summary(value=values)
            writer.add_event(event.Event(step=row.seed, wall_time=0, summary=told))
        writer.close()
    return sum(map(len, runs.values()))


def to_mlflow(rows: Sequence[Row], experiment: str) -> int:
    """Makes a run of each cell that `experiment` does not have yet; how many.

    The server is that of `MLFLOW_TRACKING_URI`. Raises `ParameterError` where mlflow is not
    installed and `OutputError` where the server does not take them.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    mlflow = _needed("mlflow")
    entities = _needed("mlflow.entities")
    try:
        client = mlflow.MlflowClient()
        found = client.get_experiment_by_name(experiment)
        place = found.experiment_id if found else client.create_experiment(experiment)
        there, sent = _there(client, place), 0
        for row in _done(rows):
            name = f"{row.id}/{row.budget:g}"
            if name in there:
                continue
            title = "/".join((row.data, *map(_text, row.group), f"seed{row.seed}"))
            made = client.create_run(place, tags={CELL: name, "mlflow.runName": title})
            client.log_batch(
                made.info.run_id,
                metrics=[entities.Metric(key, value, 0, 0) for key, value in _numbers(row)],
                params=[entities.Param(key, value) for key, value in _told(row)],
            )
            client.set_terminated(made.info.run_id)
            sent += 1
    except mlflow.exceptions.MlflowException as error:
        raise OutputError(f"mlflow: {' '.join(str(error).split())}") from None
    return sent


def _there(client: Any, experiment: str) -> set[str]:
    """The cells that have a run already."""
    found, token = set(), None
    while True:
        page = client.search_runs([experiment], max_results=1000, page_token=token)
        found |= {run.data.tags.get(CELL) for run in page if run.info.status == "FINISHED"}
        token = page.token
        if not token:
            return found


def _done(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.status == "done"]


def _numbers(row: Row) -> list[tuple[str, float]]:
    values = ((name, getattr(row, name)) for name in NUMBERS)
    return [(name, value) for name, value in values if value is not None]


def _told(row: Row) -> list[tuple[str, str]]:
    """What a cell is, and its flags, as texts."""
    names = (field.name for field in fields(row) if field.name not in NUMBERS)
    texts = ((name, getattr(row, name)) for name in names)
    return [(k, " ".join(v) if isinstance(v, tuple) else _text(v)) for k, v in texts]


def _place(row: Row) -> Path:
    """Where the run of a row lies: names may hold paths, which must not lead elsewhere."""
    return Path(*(_text(part).replace("/", "-") for part in (row.data, *row.group)))


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _needed(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.split(".")[0]
        raise ParameterError(
            f"--track {name} needs {name}: pip install 'unbackdoor[track]'"
        ) from None
