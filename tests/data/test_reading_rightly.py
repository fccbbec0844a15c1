"""Nothing about images is guessed in silence: labels, parts, hidden files, columns, rotations."""

import io

import numpy as np
import pytest
from PIL import Image

from unbackdoor import data
from unbackdoor.core.errors import ImagesError, UnbackdoorWarning

TEN = [str(label) for label in range(10)]


def classes(folder, names, images=1):
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for index in range(images):
            Image.new("RGB", (4, 4), (level, index, 0)).save(folder / name / f"{index}.png")
    return folder


def test_a_missing_class_folder_is_not_matched_by_order(tmp_path):
    nine = classes(tmp_path, "abcdefghi")
    with pytest.raises(ImagesError, match=r"has 9 classes .* the model 10 .*--classes"):
        data.open_images(nine, classes=TEN)
    found = data.open_images(nine, classes=list("jihgfedcba"))
    assert found.labels.tolist() == list(range(9, 0, -1))


def test_as_many_folders_as_unknown_classes_are_matched_by_order(tmp_path):
    found = data.open_images(classes(tmp_path, "abc"), classes=["0", "1", "2"])
    assert found.labels.tolist() == [0, 1, 2]


def test_numbers_are_numbers_and_the_other_order_is_known(tmp_path):
    folder = classes(tmp_path, ["10", "9", "2", *"01345678"])
    names = [str(label) for label in range(11)]
    for asked in (None, names):
        found = data.open_images(folder, classes=asked)
        assert found.classes == tuple(names) and found.labels.tolist() == list(range(11))
    assert data.as_text(folder, names).tolist() == [0, 1, *range(3, 11), 2]
    assert data.as_text(folder, ["x", *names[1:]]) is None
    assert data.as_text(classes(tmp_path / "few", ["0", "1"]), None) is None


def test_parts_are_no_classes(tmp_path):
    for part, level in (("train", 2), ("val", 1)):
        classes(tmp_path / part, "ab", level)
    with pytest.raises(ImagesError, match=r"say which: .*:train or .*:val"):
        data.open_images(tmp_path)
    assert len(data.open_images(f"{tmp_path}:val")) == 2
    assert len(data.open_images(f"{tmp_path}:train")) == 4
    with pytest.raises(ImagesError, match="has no part 'test'"):
        data.open_images(f"{tmp_path}:test")


def test_what_systems_leave_behind_is_nobodys_image(tmp_path):
    folder = classes(tmp_path, "ab", 2)
    for name in ("__MACOSX", ".ipynb_checkpoints", "@eaDir"):
        classes(folder / name, "c")
        classes(folder / "a" / name, "c")
    (folder / "a" / "Thumbs.db").write_bytes(b"x")
    assert len(data.open_images(folder)) == 4
    (folder / "a" / "._0.png").write_bytes(b"x")
    with pytest.warns(UnbackdoorWarning, match="left out 1 of its files"):
        assert len(data.open_images(folder)) == 4


def test_links_are_followed_once_and_what_is_left_out_is_counted(tmp_path):
    folder = classes(tmp_path / "here", "ab", 2)
    classes(tmp_path / "there", "c", 3)
    (folder / "a" / "more").symlink_to(tmp_path / "there" / "c")
    (folder / "a" / "loop").symlink_to(folder / "a")
    assert len(data.open_images(folder)) == 7
    Image.new("RGB", (4, 4)).save(folder / "b" / "x.jfif", "jpeg")
    (folder / "b" / "note.txt").write_text("x")
    (folder / "b" / "none").write_text("x")
    with pytest.warns(UnbackdoorWarning, match=r"left out 2 of its files.*1 \.txt, 1 no suffix"):
        assert len(data.open_images(folder)) == 8


def turned() -> bytes:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # to be turned right by a quarter
    picture = np.zeros((4, 6, 3), np.uint8)
    picture[:, :3] = 250
    Image.fromarray(picture).save(file, "png", exif=exif)
    return file.getvalue()


def test_rotations_are_told_of_folders_and_done_for_the_hub(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    (tmp_path / "f" / "a").mkdir(parents=True)
    (tmp_path / "f" / "a" / "0.png").write_bytes(turned())
    with pytest.warns(UnbackdoorWarning, match="1 of 1 images ask to be rotated"):
        assert data.open_images(tmp_path / "f").shape == (3, 4, 6)
    pq.write_table(pa.table({"image": [{"bytes": turned()}], "label": [0]}), tmp_path / "a.parquet")
    found = data.open_images(tmp_path / "a.parquet")
    assert found.shape == (3, 6, 4)
    assert found.pixels[0, 0, 0, 0] == 250 and found.pixels[0, 0, 5, 0] == 0


def test_shards_of_several_parts_and_columns_of_other_names(tmp_path):
    pq = pytest.importorskip("pyarrow.parquet")
    import pyarrow as pa

    def write(name, labels, image="image", label="label"):
        cells = [{"bytes": turned()} for _ in labels]
        (tmp_path / name).parent.mkdir(exist_ok=True)
        pq.write_table(pa.table({image: cells, label: labels}), tmp_path / name)

    write("data/train-00000-of-00001.parquet", [0, 1])
    write("data/test-00000-of-00001-abc.parquet", [1])
    for place in ("", "/data"):
        with pytest.raises(ImagesError, match=r"several parts; say which: .*:test or .*:train"):
            data.open_images(f"{tmp_path}{place}")
        assert data.open_images(f"{tmp_path}{place}:test").labels.tolist() == [1]
    write("fine.parquet", [0, 1], "img", "fine_label")
    assert data.open_images(tmp_path / "fine.parquet").labels.tolist() == [0, 1]
    write("text.parquet", ["dog", "ant"])
    found = data.open_images(tmp_path / "text.parquet", classes=["dog", "ant"])
    assert found.labels.tolist() == [0, 1]
    write("odd.parquet", [0, 1], "pic", "kind")
    with pytest.raises(ImagesError, match="--columns"):
        data.open_images(tmp_path / "odd.parquet")
    found = data.open_images(tmp_path / "odd.parquet", columns=("pic", "kind"))
    assert found.labels.tolist() == [0, 1]


def test_a_name_that_is_also_a_folder_is_said(tmp_path, monkeypatch):
    classes(tmp_path / "digits", "ab")
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UnbackdoorWarning, match=r"name of a data set.*\./digits"):
        assert len(data.open_images("digits:test")) > 400
    assert len(data.open_images("./digits")) == 2
