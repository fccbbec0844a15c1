"""Parquet files that lie about what they hold, unpack to far more, or show what they should not."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from .inputs import DIGITS, EITHER, EVALUATE, TEXTS, Input, sparse
from .samples import png, small_model


def table(
    path: Path, images: Any = None, labels: Any = (0,), names: Any = None, **said: Any
) -> None:
    """Writes `a.parquet` as Hugging Face does."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images = [{"bytes": png(), "path": None}] * len(labels) if images is None else images
    made = pa.table({"image": images, "label": labels})
    if names is not None:
        features = (
            names
            if isinstance(names, str)
            else json.dumps({"info": {"features": {"label": {"names": names}}}})
        )
        made = made.replace_schema_metadata(
            {"huggingface": features.encode("utf-8", "surrogatepass")}
        )
    pq.write_table(made, path / "a.parquet", **said)


def _tables() -> Iterator[tuple[str, Callable[[Path], object]]]:
    """Names, and what writes `a.parquet` into a folder."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, labels in {
        "a label of 10^10": [10**10],
        "a label of -1": [-1],
        "a label of NaN": [float("nan")],
        "a label of 1e300": [1e300],
        "a label that is missing": [None, 0],
        "labels in lists": [[0]],
        "labels in lists of other lengths": [[0, 1], [1]],
        "labels in lists of nothing": [[], []],
        "labels in lists of lists": [[[0, 1]]],
        "labels in a list with a hole": [[0, None, 1]],
        "labels in lists that are no one-hot": [[0.5, 0.5], [math.nan, 1.0]],
        "a label that is true": [True],
        "a label that is bytes": [b"cat"],
        "labels as texts": ["cat"],
        "no rows": pa.array([], pa.int64()),
    }.items():
        yield name, lambda folder, labels=labels: table(folder, labels=labels)
    for name, images in {
        "an image that is a path": [{"bytes": None, "path": "/etc/passwd"}],
        "an image that is text": ["/etc/passwd"],
        "an image that is a number": [1],
        "an image of nothing": [{"bytes": b"", "path": ""}],
        "an image in lists": [[[b"x"]]],
        "an image that is no image": [{"bytes": b"GIF89a" + bytes(10), "path": None}],
        "an image that is PostScript": [
            {"bytes": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}
        ],
    }.items():
        yield name, lambda folder, images=images: table(folder, images)
    for name, names in {
        "class names that are a number": 3,
        "class names that are numbers": [1, 2],
        "class names of nothing": [],
        "a million class names": ["x"] * 10**6,
        "metadata that is no JSON": "{",
        "metadata that is a list": "[1]",
        "metadata nested 100,000 deep": "[" * 100_000,
        "metadata of 5,000 digits": DIGITS,
        "metadata that is null": '{"info": null}',
        "one class twice": ["cat", "cat", "dog"],
    }.items():
        yield name, lambda folder, names=names: table(folder, names=names)
    for name, text in list(TEXTS.items())[::2]:
        yield (
            f"{name} as a class",
            lambda folder, text=text: table(folder, names=[text, "dog", "eel"]),
        )
        lone = text.encode("utf-8", "replace").decode()
        yield (
            f"{name} as a column",
            lambda folder, lone=lone: pq.write_table(pa.table({lone: [1]}), folder / "a.parquet"),
        )
    yield (
        "one image of 100 MB in 1,000 rows",
        lambda folder: table(
            folder,
            pa.array([b"\x89PNG" + bytes(10**8)] * 1).take([0] * 20),
            [0] * 20,
            compression="zstd",
        ),
    )
    yield (
        "one text of 100 MB as the label of 40 rows",
        lambda folder: table(
            folder, labels=pa.array(["x" * 10**8]).take([0] * 20), compression="zstd"
        ),
    )
    yield (
        "100,000 rows of one image",
        lambda folder: table(
            folder, pa.array([png()]).take([0] * 100_000), [0] * 100_000, compression="zstd"
        ),
    )
    yield (
        "a million columns",
        lambda folder: pq.write_table(
            pa.table({str(n): [1] for n in range(20_000)}), folder / "a.parquet"
        ),
    )
    yield (
        "a long name of a class that is said once for many rows",
        lambda folder: table(
            folder,
            labels=pa.DictionaryArray.from_arrays(
                pa.array([0] * 2000), pa.array(["x" * 10**7], pa.large_string())
            ),
        ),
    )
    yield (
        "a label in a row of 10^8 numbers",
        lambda folder: table(folder, labels=pa.array([np.zeros(10**8, np.int8)])),
    )
    yield (
        "no parquet",
        lambda folder: (folder / "a.parquet").write_bytes(b"PAR1" + bytes(100) + b"PAR1"),
    )
    yield (
        "a footer of 2^31",
        lambda folder: (folder / "a.parquet").write_bytes(
            b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"
        ),
    )
    yield "10 GB of nothing", lambda folder: sparse(folder / "a.parquet", 10**10, b"PAR1", b"PAR1")


def inputs() -> Iterator[Input]:
    for name, write in _tables():

        def make(folder: Path, write: Callable[[Path], object] = write) -> list[str]:
            small_model(folder / "m.safetensors")
            write(folder)
            return [*EVALUATE, "a.parquet"]

        yield Input("parquet", name, make, EITHER)

    def many(folder: Path) -> list[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        names = [f"class {n}" for n in range(100_000)]
        small_model(folder / "m.safetensors", names)
        said = json.dumps({"info": {"features": {"label": {"names": names[::-1]}}}})
        made = pa.table({"image": [png()], "label": [3]}).replace_schema_metadata(
            {"huggingface": said}
        )
        pq.write_table(made, folder / "a.parquet")
        return [*EVALUATE, "a.parquet"]

    yield Input("parquet", "100,000 classes in another order", many, EITHER)
