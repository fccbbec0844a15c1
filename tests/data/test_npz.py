import numpy as np
import pytest
import torch

from hostile import touches
from unbackdoor import data
from unbackdoor.core.errors import ImagesError

X = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
Y = np.array([1, 0])


def opened(path, **arrays):
    np.savez(path / "a.npz", **arrays)
    return data.open_images(path / "a.npz")


@pytest.mark.parametrize(
    ("x", "y"),
    [("x", "y"), ("images", "labels"), ("pixels", "labels"), ("x_test", "y_test"),
     ("test_images", "test_labels")],
)  # fmt: skip
def test_the_names_that_are_known(tmp_path, x, y):
    found = opened(tmp_path, **{x: X, y: Y})
    assert np.array_equal(found.pixels.numpy(), X.transpose(0, 3, 1, 2))
    assert found.labels.tolist() == [1, 0] and found.classes == ("0", "1")


def test_layouts_and_floats(tmp_path):
    wanted = torch.from_numpy(X).permute(0, 3, 1, 2)
    assert torch.equal(opened(tmp_path, x=wanted.numpy(), y=Y[:, None]).pixels, wanted)
    assert torch.equal(opened(tmp_path, x=X / 255, y=Y).pixels, wanted)
    assert opened(tmp_path, x=X[..., 0], y=Y).shape == (1, 4, 5)


@pytest.mark.parametrize(
    "arrays",
    [
        {"X": X, "Y": Y},
        {"data": X, "targets": Y},
        {"arr_0": X, "arr_1": Y},
        {"x": X * 1.0, "y": Y},
        {"x": X.astype(np.int64), "y": Y * 1.0},
        {"x": X, "y": np.eye(2)[Y]},
        {"x": X, "y": np.array(["b", "a"])},
    ],
)
def test_the_ways_people_call_and_count_them(tmp_path, arrays):
    found = opened(tmp_path, **arrays)
    assert torch.equal(found.pixels, torch.from_numpy(X).permute(0, 3, 1, 2))
    assert found.labels.tolist() == Y.tolist()


def test_other_names_are_asked_for(tmp_path):
    with pytest.raises(ImagesError, match="--columns"):
        opened(tmp_path, pics=X, kinds=Y)
    found = data.open_images(tmp_path / "a.npz", columns=("pics", "kinds"))
    assert found.labels.tolist() == Y.tolist()
    with pytest.raises(ImagesError, match="has no 'nope'"):
        data.open_images(tmp_path / "a.npz", columns=("pics", "nope"))


def test_class_names(tmp_path):
    assert opened(tmp_path, x=X, y=Y, classes=np.array(["cat", "dog"])).classes == ("cat", "dog")


def test_parts(tmp_path):
    arrays = {"x_train": X, "y_train": Y, "x_test": X[:1], "y_test": Y[:1]}
    with pytest.raises(ImagesError, match=r"say which: .*:train or .*:test"):
        opened(tmp_path, **arrays)
    assert len(data.open_images(f"{tmp_path}/a.npz:test")) == 1
    with pytest.raises(ImagesError, match="'val'"):
        data.open_images(f"{tmp_path}/a.npz:val")
    with pytest.raises(ImagesError, match=r"say which: .*:train or .*:valid"):
        opened(tmp_path, x_train=X, y_train=Y, x_valid=X, y_valid=Y)


def test_images_that_are_there_twice_are_not_chosen_between(tmp_path):
    twice = {"x": X, "y": Y, "images": X[:1], "labels": Y[:1]}
    with pytest.raises(ImagesError, match=r"image=x,label=y or .* image=images,label=labels"):
        opened(tmp_path, **twice)
    assert len(data.open_images(tmp_path / "a.npz", columns=("images", "labels"))) == 1
    both = {f"{name}_test": array for name, array in twice.items()}
    np.savez(tmp_path / "a.npz", **both)
    with pytest.raises(ImagesError, match=r"image=x_test,label=y_test or .* image=images_test"):
        data.open_images(f"{tmp_path}/a.npz:test")


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({"x": X, "z": Y}, "it holds x, z"),
        ({"x": X, "y": Y[:1]}, "2 images but 1 labels"),
        ({"x": X - 200.0, "y": Y}, "has its own.; got float64 from -200.0"),
        ({"x": X * 3.0, "y": Y}, "from 0.0 to 357.0"),
        ({"x": X * np.nan, "y": Y}, "from nan"),
        ({"x": X[..., :2], "y": Y}, "1 or 3 channels"),
        ({"x": X, "y": Y + 0.5}, "whole numbers"),
        ({"x": X, "y": np.ones((2, 3))}, "whole numbers"),
        ({"x": X, "y": Y - 1}, "from -1 to 0"),
        ({"x": X[:0], "y": Y[:0]}, "no images"),
        ({"x": X, "y": Y, "classes": np.array(["a"])}, "from 0 to 1, but there are 1 classes"),
    ],
)
def test_what_does_not_fit(tmp_path, arrays, told):
    with pytest.raises(ImagesError, match=told):
        opened(tmp_path, **arrays)


def test_pickled_objects_are_not_opened(tmp_path):
    marker = tmp_path / "marker"
    with pytest.raises(ImagesError, match="allow_pickle"):
        opened(tmp_path, x=np.array([touches(marker)], dtype=object), y=Y)
    assert not marker.exists()


def test_a_single_array(tmp_path):
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, X)
    with pytest.raises(ImagesError, match="single array"):
        data.open_images(tmp_path / "a.npz")


def test_damaged_files(tmp_path):
    opened(tmp_path, x=X, y=Y)
    whole = (tmp_path / "a.npz").read_bytes()
    for damaged in (whole[:100], b"", b"text", whole[:60] + bytes(40) + whole[100:]):
        (tmp_path / "a.npz").write_bytes(damaged)
        with pytest.raises(ImagesError, match="truncated") as caught:
            data.open_images(tmp_path / "a.npz")
        assert "\n" not in str(caught.value)
