"""Export: files that say what every image is, and give back every pixel."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base.export import export, folder_names, png
from unbackdoor.attacks.wanet import WaNet
from unbackdoor.core.errors import ImagesError, OutputError
from unbackdoor.core.images import Images, Triggered
from unbackdoor.core.run import Run
from unbackdoor.data import open_images, open_triggered

pq = pytest.importorskip("pyarrow.parquet")


def some(n: int, channels: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> Images:
    rng = torch.Generator().manual_seed(n)
    pixels = torch.randint(0, 256, (n, channels, 6, 8), dtype=torch.uint8, generator=rng)
    return Images(pixels, torch.arange(n) % len(classes), classes)


def pixels_of(pictures: list[Image.Image]) -> torch.Tensor:
    arrays = [np.array(picture) for picture in pictures]
    return torch.stack([torch.from_numpy(a.reshape(6, 8, -1)).permute(2, 0, 1) for a in arrays])


@pytest.mark.parametrize("channels", [1, 3])
def test_parquet_gives_back_pixels_labels_names_and_roles(channels: int, tmp_path: Path) -> None:
    train, test = some(40, channels), some(10, channels)
    poisoned = WaNet().poison(train, Run())
    triggered = WaNet().triggered(test)
    export(tmp_path, poisoned, triggered)
    found = open_images(tmp_path / "train.parquet")
    assert found.classes == ("cat", "dog")
    assert torch.equal(found.labels, poisoned.images.labels)
    assert torch.equal(found.pixels, poisoned.images.pixels)
    table = pq.read_table(tmp_path / "train.parquet").to_pydict()
    names = {0: "clean", 1: "stamped", 2: "cover"}
    assert table["role"] == [names[role] for role in poisoned.role.tolist()]
    assert set(table["role"]) == set(names.values())
    assert table["original"] == train.labels.tolist()
    held = pq.read_table(tmp_path / "test.parquet").to_pydict()
    assert held["label"] == [1] * 5
    assert held["goal"] == [0] * 5
    assert set(held["role"]) == {"stamped"}


def test_the_metadata_describes_every_column(tmp_path: Path) -> None:
    export(tmp_path, BadNets().poison(some(20), Run()), BadNets().triggered(some(10)))
    schema = pq.read_schema(tmp_path / "train.parquet")
    features = json.loads(schema.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(schema.names) == {"image", "label", "role", "original"}
    assert features["label"] == {"names": ["cat", "dog"], "_type": "ClassLabel"}


def test_folders_hold_the_same_images_and_a_table(tmp_path: Path) -> None:
    poisoned = BadNets().poison(some(20), Run())
    export(tmp_path, poisoned, BadNets().triggered(some(10)))
    with (tmp_path / "train" / "roles.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == poisoned.images.labels.tolist()
    assert [row["role"] for row in rows].count("stamped") == 2
    seen = pixels_of([Image.open(tmp_path / "train" / row["file"]) for row in rows])
    assert torch.equal(seen, poisoned.images.pixels)
    assert rows[1]["file"].split("/")[0] == ("cat", "dog")[int(rows[1]["label"])]
    assert len(list((tmp_path / "test").rglob("*.png"))) == 5
    again = open_triggered(tmp_path / "test", 0)
    assert torch.equal(again.images.pixels, BadNets().triggered(some(10)).images.pixels)
    assert again.images.labels.tolist() == [1] * 5


NAMES = (
    ("ant", "bee", "cat"),
    ("truck", "ship", "dog"),
    tuple(map(str, range(12))),
)
"""Sorted as text; not sorted; numbers, which sort otherwise as text."""


@pytest.mark.parametrize("classes", NAMES)
@pytest.mark.parametrize("target", [0, 1, 2])
def test_torchvision_numbers_the_classes_as_we_do(
    classes: tuple[str, ...], target: int, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    attack = BadNets(target=target)
    poisoned, stamped = (
        attack.poison(some(48, 3, classes), Run()),
        attack.triggered(some(36, 3, classes)),
    )
    export(tmp_path, poisoned, stamped)
    with pytest.raises(FileNotFoundError, match="no valid file"):
        datasets.ImageFolder(tmp_path / "test")
    for split, images in (("train", poisoned.images), ("test", stamped.images)):
        found = datasets.ImageFolder(tmp_path / split, allow_empty=split == "test")
        assert len(found.classes) == len(classes)
        with (tmp_path / split / "roles.csv").open() as file:
            wanted = {row["file"]: int(row["label"]) for row in csv.DictReader(file)}
        given = {Path(path).relative_to(tmp_path / split).as_posix(): y for path, y in found.imgs}
        assert given == wanted
        assert sorted(given.values()) == sorted(images.labels.tolist())


@pytest.mark.parametrize("classes", NAMES)
def test_our_own_reader_knows_the_classes_of_the_folders_alone(
    classes: tuple[str, ...], tmp_path: Path
) -> None:
    attack = BadNets(target=1)
    stamped = attack.triggered(some(36, 3, classes))
    export(tmp_path, attack.poison(some(48, 3, classes), Run()), stamped)
    train, again = open_images(tmp_path / "train"), open_triggered(tmp_path / "test", 1)
    assert train.classes == again.images.classes == classes
    assert len(again.goals) == len(stamped.goals)
    assert torch.equal(again.images.labels, stamped.images.labels.sort(stable=True).values)
    moved = open_triggered(tmp_path / "test", classes[1], classes=classes[::-1])
    assert moved.images.labels.max() == len(classes) - 1


def test_a_table_of_classes_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    export(tmp_path, None, BadNets().triggered(some(10)))
    (tmp_path / "test" / "cat").rmdir()
    assert open_triggered(tmp_path / "test", 0).images.labels.tolist() == [1] * 5
    (tmp_path / "test" / "more").mkdir()
    with pytest.raises(ImagesError, match="does not name 'more'"):
        open_images(tmp_path / "test")
    (tmp_path / "test" / "more").rmdir()
    (tmp_path / "test" / "classes.csv").write_text("folder,class\n../dog,a\ndog,b\n")
    with pytest.raises(ImagesError, match=r"classes\.csv is damaged"):
        open_images(tmp_path / "test")
    (tmp_path / "test" / "classes.csv").write_text("another,table\n1,2\n")
    assert open_images(tmp_path / "test").classes == ("dog",)


def test_without_a_fixed_training_set_only_the_test_set_is_written(tmp_path: Path) -> None:
    written = export(tmp_path, None, BadNets().triggered(some(10)))
    assert written == (tmp_path / "test.parquet", tmp_path / "test")
    assert not (tmp_path / "train.parquet").exists()


def test_names_that_are_no_folders_become_numbers() -> None:
    plain = ["Fuß", "a b", "c (d)", "jack-o'-lantern & co"]
    assert folder_names(plain) == plain
    hidden, long, line = [".a", "b"], ["a" * 60, "b"], ["a\nb", "c"]
    for names in (
        ["a/b", "c"],
        ["..", "c"],
        ["A", "a"],
        ["a.", "b"],
        ["", "b"],
        ["b", "a"],
        ["9", "10"],
        hidden,
        long,
        line,
    ):
        assert folder_names(names) == ["0000", "0001"]


def test_png_is_lossless_and_refuses_five_channels() -> None:
    pixels = some(1, 4).pixels[0]
    assert torch.equal(pixels_of([Image.open(io.BytesIO(png(pixels)))])[0], pixels)
    with pytest.raises(ImagesError, match="1 to 4 channels, these images have 5"):
        png(torch.zeros(5, 2, 2, dtype=torch.uint8))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    empty = Triggered(some(2), torch.zeros(2, dtype=torch.int64))
    with pytest.raises(OutputError, match="cannot write to"):
        export(file / "inside", None, empty)
