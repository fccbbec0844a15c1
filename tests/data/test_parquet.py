import io
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from unbackdoor import data
from unbackdoor.core.errors import ImagesError, UnbackdoorWarning

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
ZOO = Path(__file__).parents[3] / "shared" / "zoo"


def png(level):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (level, 0, 0)).save(file, "png")
    return file.getvalue()


def write(path, labels, column="img", names=None, cells=None, metadata=None):
    cells = cells or [{"bytes": png(index), "path": None} for index in range(len(labels))]
    table = pa.table({column: cells, "label": labels})
    if names:
        metadata = json.dumps({"info": {"features": {"label": {"names": names}}}})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata or "{}"}), path)
    return path


@pytest.mark.parametrize("column", ["img", "image"])
def test_a_file_with_class_names(tmp_path, column):
    found = data.open_images(write(tmp_path / "a.parquet", [1, 0], column, ["cat", "dog"]))
    assert found.classes == ("cat", "dog") and found.labels.tolist() == [1, 0]
    assert found.shape == (3, 3, 4) and found.pixels[:, 0, 0, 0].tolist() == [0, 1]


def test_two_columns_of_labels_are_not_chosen_between(tmp_path):
    cells = [{"bytes": png(0), "path": None}] * 2
    table = pa.table({"img": cells, "label": [0, 1], "class": [1, 0]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ImagesError, match=r"may be 'label' or 'class': say which \(--columns"):
        data.open_images(tmp_path / "a.parquet")
    found = data.open_images(tmp_path / "a.parquet", columns=("img", "class"))
    assert found.labels.tolist() == [1, 0]


def test_a_folder_of_shards_without_names(tmp_path):
    write(tmp_path / "b.parquet", [2])
    write(tmp_path / "a.parquet", [0, 1])
    with pytest.warns(UnbackdoorWarning, match=r"a\.parquet, b\.parquet\) are read as one"):
        found = data.open_images(tmp_path)
    assert found.labels.tolist() == [0, 1, 2] and found.classes == ("0", "1", "2")


def test_a_data_set_known_by_name_may_lie_as_parquet(tmp_path, monkeypatch):
    monkeypatch.setenv("UNBACKDOOR_DATA", str(tmp_path))
    for split, labels in (("train", [1, 0]), ("test", [1])):
        write(tmp_path / f"cifar10-{split}.parquet", labels, names=["cat", "dog"])
    assert data.open_images("cifar10").labels.tolist() == [1, 0]
    assert data.open_images("cifar10:test").labels.tolist() == [1]
    write(tmp_path / "gtsrb-test.parquet", [0])
    with pytest.warns(UnbackdoorWarning, match="4x3 to 32x32|3x4 to 32x32"):
        assert data.open_images("gtsrb:test").shape == (3, 32, 32)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"labels": [0], "column": "picture"}, "it has picture, label"),
        ({"labels": [0, 5], "names": ["cat", "dog"]}, "from 0 to 5, but there are 2"),
        ({"labels": [0, None]}, "rows without a label"),
        ({"labels": [0.5]}, "not whole"),
        ({"labels": [0, 1], "cells": [{"bytes": png(1)}, {"bytes": b"x"}]}, "row 1 is not a read"),
        ({"labels": [0], "cells": [{"bytes": None, "path": "a.png"}]}, "row 0 holds no image"),
        ({"labels": [0], "metadata": "{"}, "metadata is damaged"),
        ({"labels": [0], "metadata": "[]"}, "metadata is damaged"),
        ({"labels": [0], "names": "cat"}, "no list of names"),
    ],
)
def test_what_does_not_fit(tmp_path, arguments, told):
    with pytest.raises(ImagesError, match=told):
        data.open_images(write(tmp_path / "a.parquet", **arguments))


def test_a_truncated_file(tmp_path):
    path = write(tmp_path / "a.parquet", [0])
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ImagesError, match=r"a\.parquet is no readable parquet file"):
        data.open_images(path)


def test_without_pyarrow_it_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path / "a.parquet", [0])
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImagesError, match=r"unbackdoor\[data\]"):
        data.open_images(path)


@pytest.mark.skipif(not ZOO.is_dir(), reason="needs the shared victims")
def test_the_stamped_images_of_the_zoo():
    folder = ZOO / "cifar10-badnets-w32-short"
    found = data.open_triggered(folder / "triggered_test.parquet", 0, size=(32, 32), channels=3)
    assert len(found.goals) == 2000 and found.images.classes[0] == "airplane"
    assert (found.images.pixels[:, :, -3:, -3:] == 255).all()
