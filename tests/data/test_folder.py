import pytest
import torch
from PIL import Image

from unbackdoor import data
from unbackdoor.core.errors import ImagesError, UnbackdoorWarning


@pytest.fixture
def folder(tmp_path):
    for name, level in (("cat", 10), ("ant", 200)):
        (tmp_path / name).mkdir()
        for index in range(2):
            Image.new("RGB", (6, 4), (level, index, 0)).save(tmp_path / name / f"{index}.png")
    return tmp_path


def test_classes_and_files_come_in_the_order_of_their_names(folder):
    found = data.open_images(folder)
    assert found.classes == ("ant", "cat") and found.shape == (3, 4, 6)
    assert found.labels.tolist() == [0, 0, 1, 1]
    assert found.pixels[:, :2, 0, 0].tolist() == [[200, 0], [200, 1], [10, 0], [10, 1]]


def test_labels_follow_the_models_names(folder):
    found = data.open_images(folder, classes=["bee", "cat", "ant"])
    assert found.labels.tolist() == [2, 2, 1, 1] and found.classes == ("bee", "cat", "ant")
    with pytest.raises(ImagesError, match="'ant', which is none"):
        data.open_images(folder, classes=["cat", "dog"])
    with pytest.warns(UnbackdoorWarning, match="by their order"):
        assert data.open_images(folder, classes=["x", "y"]).labels.tolist() == [0, 0, 1, 1]


def test_numbers_match_however_they_are_padded(folder):
    (folder / "ant").rename(folder / "00002")
    (folder / "cat").rename(folder / "00010")
    found = data.open_images(folder, classes=[str(label) for label in range(12)])
    assert found.labels.tolist() == [2, 2, 10, 10]


def test_mixed_sizes_become_the_most_common_and_this_is_said(folder):
    Image.new("RGB", (12, 8), (10, 1, 0)).save(folder / "cat" / "1.png")
    with pytest.warns(UnbackdoorWarning, match="1 of 4 images resized from 8x12 to 4x6"):
        found = data.open_images(folder)
    assert found.pixels[3, :, 0, 0].tolist() == [10, 1, 0]


def test_gray_images_have_one_channel_unless_three_are_wanted(folder):
    for path in folder.rglob("*.png"):
        Image.new("L", (6, 4), 7).save(path)
    assert data.open_images(folder).shape == (1, 4, 6)
    assert data.open_images(folder, channels=3).shape == (3, 4, 6)


def test_an_empty_class_folder_is_named(folder):
    (folder / "bee").mkdir()
    with pytest.raises(ImagesError, match=r"bee holds no images"):
        data.open_images(folder)


def test_a_folder_without_class_folders(tmp_path):
    with pytest.raises(ImagesError, match="no class folders"):
        data.open_images(tmp_path)


@pytest.mark.parametrize("size", [None, (4, 6)])
@pytest.mark.parametrize("cut", [0, 20, 48])
def test_a_corrupt_image_is_named(folder, cut, size):
    path = folder / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(ImagesError, match=r"1\.png is not a readable image") as caught:
        data.open_images(folder, size=size, channels=3)
    assert "\n" not in str(caught.value)


def test_deep_images_are_refused(folder):
    Image.new("I;16", (6, 4), 300).save(folder / "cat" / "1.png")
    with pytest.raises(ImagesError, match=r"1\.png has more than 8 bits"):
        data.open_images(folder)


def test_an_unknown_kind_of_file(folder):
    (folder / "a.csv").write_text("a")
    with pytest.raises(ImagesError, match="no kind of image file"):
        data.open_images(folder / "a.csv")


def test_resizing_does_not_alias(tmp_path):
    (tmp_path / "a").mkdir()
    stripes = Image.new("L", (16, 16))
    stripes.putdata([255 * (x % 2) for _ in range(16) for x in range(16)])
    stripes.save(tmp_path / "a" / "0.png")
    with pytest.warns(UnbackdoorWarning):
        small = data.open_images(tmp_path, size=(4, 4)).pixels
    assert torch.allclose(small[..., 1:-1].float(), torch.tensor(127.5), atol=10)
