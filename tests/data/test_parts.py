"""Parts of a data set are never mixed, however they are laid out; nor are stray files lost."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from unbackdoor import data
from unbackdoor.core.errors import ImagesError, UnbackdoorWarning


def image(path, level=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4), level).save(path)


def folders(root, *names):
    for name in names:
        image(root / name / "0.png")


def shard(path, labels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (4, 4)).save(path.with_suffix(".png"))
    cell = {"bytes": path.with_suffix(".png").read_bytes(), "path": None}
    pq.write_table(pa.table({"image": [cell] * len(labels), "label": labels}), path)
    path.with_suffix(".png").unlink()


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (["train/a", "train/b", "test"], ":train$"),
        (["train/a", "test/a", "extra/a"], ":extra or .*:test or .*:train"),
        (["training_set/a", "test_set/a"], ":test_set or .*:training_set"),
        (["Train/a", "Val/a"], ":Train or .*:Val"),
        (["train", "test"], "they hold no class folders"),
        (["images/train/a", "images/val/a"], "but a data set; say which: .*images:train or"),
    ],
)
def test_folders_of_parts_are_no_classes(tmp_path, names, told):
    folders(tmp_path, *names)
    with pytest.raises(ImagesError, match=told):
        data.open_images(tmp_path)


def test_a_class_may_be_called_train(tmp_path):
    folders(tmp_path, "bus", "car", "train/old", "train/new")
    assert data.open_images(tmp_path).classes == ("bus", "car", "train")


def test_one_folder_around_the_classes_is_said(tmp_path):
    folders(tmp_path, "photos/a", "photos/b")
    with pytest.warns(UnbackdoorWarning, match=r"single class, 'photos'; .* name .*photos"):
        assert data.open_images(tmp_path).classes == ("photos",)


def test_images_beside_the_class_folders_are_counted(tmp_path):
    folders(tmp_path, "a", "b")
    image(tmp_path / "stray.png")
    with pytest.warns(UnbackdoorWarning, match=r"left out 1 of its files, .*1 beside the class"):
        assert len(data.open_images(tmp_path)) == 2


@pytest.mark.parametrize(
    ("first", "second", "part"),
    [
        ("train-0.parquet", "valid-0.parquet", "valid"),
        ("cifar_train.parquet", "cifar_test.parquet", "test"),
        ("a-test.parquet", "b-test.parquet", "b-test"),
        ("plain_text/train-00000-of-00001.parquet", "plain_text/test-00000-of-00001.parquet",
         "test"),
        ("train/0000.parquet", "test/0000.parquet", "test"),
        ("one/train-0.parquet", "two/train-0.parquet", "two/train"),
    ],
)  # fmt: skip
def test_shards_of_parts_are_kept_apart(tmp_path, first, second, part):
    shard(tmp_path / first, [0, 0, 1])
    shard(tmp_path / second, [1])
    with pytest.raises(ImagesError, match=f"several parts; say which: .*:{part}"):
        data.open_images(tmp_path)
    assert data.open_images(f"{tmp_path}:{part}").labels.tolist() == [1]


def test_shards_of_one_part_are_one(tmp_path):
    for place in range(2):
        shard(tmp_path / f"train-0000{place}-of-00002-ab12cd34e{place}.parquet", [place])
    assert data.open_images(tmp_path).labels.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("labels", "numbers"),
    [
        ([2.0, 0.0, 1.0], [2, 0, 1]),
        (np.eye(3)[[2, 0, 1]].tolist(), [2, 0, 1]),
        (np.eye(3, dtype=int)[[2, 0, 1]].tolist(), [2, 0, 1]),
        ([True, False, True], [1, 0, 1]),
        (["10", "9", "2"], [2, 1, 0]),  # names that are numbers come in their order
        (pa.array(["b", "a", "b"]).dictionary_encode(), [1, 0, 1]),
    ],
)
def test_labels_of_parquet_as_people_write_them(tmp_path, labels, numbers):
    shard(tmp_path / "some.parquet", labels)
    assert data.open_images(tmp_path / "some.parquet").labels.tolist() == numbers


@pytest.mark.parametrize("labels", [[0.5, 1.0], [[0.5, 0.5], [1.0, 0.0]], [[1], [0, 1]]])
def test_other_labels_are_refused(tmp_path, labels):
    shard(tmp_path / "some.parquet", labels)
    with pytest.raises(ImagesError, match=r"whole|must be"):
        data.open_images(tmp_path / "some.parquet")


def test_names_that_differ_in_case_only_are_the_same(tmp_path):
    folders(tmp_path, "Traffic light", "zebra")
    found = data.open_images(tmp_path, classes=["Zebra", "traffic_light"])
    assert found.labels.tolist() == [1, 0]
    folders(tmp_path, "Zebra")  # now there are two of that name
    with pytest.raises(ImagesError, match="which is none of the model's"):
        data.open_images(tmp_path, classes=["Zebra", "traffic_light"])
