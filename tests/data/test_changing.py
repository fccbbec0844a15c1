"""A clean set that somebody changes while it is read: images or one line, never a traceback."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from unbackdoor import load_images
from unbackdoor.core.errors import UnbackdoorError

SIDE = 16


def _picture(path: Path) -> None:
    Image.new("RGB", (SIDE, SIDE), (1, 2, 3)).save(path)


def _vanish(path: Path) -> None:
    path.unlink(missing_ok=True)


def _cut(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n")


def _grow(path: Path) -> None:
    path.with_name(f"{random.random()}.png").write_bytes(b"")


def _swap(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir(exist_ok=True)


@contextmanager
def _changing(folder: Path, change: Callable[[Path], None]) -> Iterator[threading.Event]:
    """Changes the pictures of `folder` in random order, one after the other, until it is left."""
    paths, done, begun = sorted(folder.rglob("*.png")), threading.Event(), threading.Event()
    random.Random(0).shuffle(paths)

    def work() -> None:
        for path in paths:
            if done.wait(0.0005):
                return
            change(path)
            begun.set()

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield begun
    finally:
        done.set()
        worker.join()


@pytest.mark.parametrize("change", [_vanish, _cut, _grow, _swap])
def test_a_folder_that_changes(change: Callable[[Path], None], tmp_path: Path) -> None:
    for number in range(300):
        place = tmp_path / "images" / str(number % 3)
        place.mkdir(parents=True, exist_ok=True)
        _picture(place / f"{number}.png")
    outcomes = []
    with _changing(tmp_path / "images", change) as begun:
        begun.wait(5)
        for _ in range(4):
            try:
                found = load_images(str(tmp_path / "images"))
            except UnbackdoorError as error:
                outcomes.append(str(error))
                assert "\n" not in str(error)
            else:
                outcomes.append("read")
                assert found.pixels.shape[1:] == (3, SIDE, SIDE)
                assert len(found.labels) == len(found.pixels)
    assert len(outcomes) == 4


def test_an_array_file_that_is_cut_while_it_is_there(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    np.savez(path, images=np.zeros((50, 8, 8, 3), np.uint8), labels=np.arange(50) % 2)
    whole = path.read_bytes()
    for length in range(0, len(whole), 997):
        path.write_bytes(whole[:length])
        with pytest.raises(UnbackdoorError) as told:
            load_images(str(path))
        assert "\n" not in str(told.value)
