import numpy as np
import pytest
import torch
from PIL import Image

from hostile import bench_result, touches
from unbackdoor import data
from unbackdoor.core.errors import CheckpointError, ImagesError

ROWS = [(0, 1), (0, 0), (0, 2)]


def changed(folder, entry):
    """A result whose first stamped image is `entry`."""
    test = {"bd_data_container": {"data_dict": {0: entry}}}
    return bench_result(folder, {}, ROWS, bd_test=test)


def test_stamped_images_with_their_own_goals(tmp_path):
    found = data.open_triggered(bench_result(tmp_path, {"a": torch.ones(1)}, ROWS))
    assert found.goals.tolist() == [0, 0] and found.images.labels.tolist() == [1, 2]
    assert found.images.pixels[:, 0, 0, 0].tolist() == [0, 2]
    assert found.images.classes == ("0", "1", "2") and found.images.shape == (3, 8, 8)


def test_the_models_names_are_taken(tmp_path):
    path = bench_result(tmp_path, {}, ROWS)
    assert data.open_triggered(path, classes=["a", "b", "c"]).images.classes == ("a", "b", "c")


def test_it_is_no_source_of_clean_images(tmp_path):
    with pytest.raises(ImagesError, match="holds triggered images"):
        data.open_images(bench_result(tmp_path, {}, ROWS))


def test_a_missing_image_is_named(tmp_path):
    path = bench_result(tmp_path, {}, ROWS)
    (tmp_path / "bd_test_dataset" / "2" / "2.png").unlink()
    with pytest.raises(ImagesError, match=r"2\.png is missing"):
        data.open_triggered(path)


@pytest.mark.parametrize(
    "place", ["../secret.png", "a/../..", "x.png", "C:/x.png", "..\\x.png", ""]
)
def test_no_path_leads_out_of_the_folder(tmp_path, place):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    path = changed(tmp_path, {"path": place, "other_info": [0, 1]})
    with pytest.raises(ImagesError, match="outside its folder"):
        data.open_triggered(path)


def test_images_in_memory_are_refused_clearly(tmp_path):
    with pytest.raises(ImagesError, match="holds its triggered images itself"):
        data.open_triggered(changed(tmp_path, ("picture", 1, 0)))
    path = bench_result(tmp_path, {}, ROWS, bd_test={"image": Image.new("RGB", (8, 8))})
    with pytest.raises(ImagesError, match="not a BackdoorBench result"):
        data.open_triggered(path)


def test_the_older_layout_says_what_it_lacks(tmp_path):
    older = {"x": torch.zeros(2, 3, 8, 8), "y": torch.zeros(2, dtype=torch.int64)}
    path = bench_result(tmp_path, {}, ROWS, bd_test=older)
    with pytest.raises(ImagesError, match=r"older layout.* no true labels.*ASR"):
        data.open_triggered(path)


@pytest.mark.parametrize(
    "test",
    [
        None,
        {},
        {"bd_data_container": {"data_dict": {"a": {}}}},
        {"bd_data_container": {"data_dict": {0: {"path": "1/0.png", "other_info": ["a", 1]}}}},
        {"bd_data_container": {"data_dict": {0: {"path": 3, "other_info": [0, 1]}}}},
        {"bd_data_container": {"data_dict": np.zeros(3)}},
    ],
)
def test_other_files_are_no_results(tmp_path, test):
    with pytest.raises(ImagesError, match="not a BackdoorBench result"):
        data.open_triggered(bench_result(tmp_path, {}, ROWS, bd_test=test))


@pytest.mark.parametrize("rows", [[(3, 1)], [(-1, 1)], [(0, 3)]])
def test_labels_and_goals_out_of_range(tmp_path, rows):
    with pytest.raises(ImagesError, match="3 classes"):
        data.open_triggered(bench_result(tmp_path, {}, rows))


def test_a_result_that_runs_code_runs_nothing(tmp_path):
    marker = tmp_path / "marker"
    path = bench_result(tmp_path, {}, ROWS, clean_data=touches(marker))
    assert len(data.open_triggered(path).goals)
    assert not marker.exists()


def test_a_truncated_result(tmp_path):
    path = bench_result(tmp_path, {}, ROWS)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match="truncated"):
        data.open_triggered(path)
