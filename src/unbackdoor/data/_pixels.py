"""From pictures as they were found to pixels uint8 `[n, c, h, w]` of one size."""

from __future__ import annotations

import io
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor
from torch.nn import functional as F

from ..core.errors import ImagesError, ParameterError, UnbackdoorWarning
from ..core.images import to_float, to_uint8
from ._source import Picture, check_size

DECODERS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
"""All of Pillow that is let near a stranger's file, whatever the file is called. Its other decoders
are not: that of PostScript starts a program on it."""

MOST_PIXELS = 2**26
"""Of one image. Pillow's own bound is of the same kind, and a little higher."""

ORIENTATION = ExifTags.Base.Orientation
MODES = {1: "L", 3: "RGB"}
GRAY = (0.299, 0.587, 0.114)
CHUNK = 1000

Size = tuple[int, int]


def pixels_of(
    source: str,
    found: Sequence[Picture] | Sequence[Tensor] | Tensor,
    size: Size | None,
    channels: int | None,
) -> Tensor:
    """`found` as uint8 `[n, c, h, w]` of `size` (height, width) and `channels` (1 or 3).

    `found` are pictures to decode, or pixels uint8: `[n, c, h, w]`, or `[c, h, w]` each. Without
    `size`, the most common one; without `channels`, 1 if every image is gray, else 3. Resizing is
    bilinear with antialiasing, and said with an `UnbackdoorWarning`. Raises `ImagesError`, naming
    the image that cannot be read.
    """
    if channels not in (None, *MODES):
        raise ParameterError(f"images have 1 or 3 channels here, not {channels}")
    if len(found) == 0:
        raise ImagesError(f"{source} holds no images")
    if isinstance(found, Tensor):
        return _converted(source, found, size or _size(found), channels or found.shape[1])
    if isinstance(found[0], Tensor):
        return _stacked(source, cast("Sequence[Tensor]", found), size, channels)
    found = cast("Sequence[Picture]", found)
    if size is None or channels is None:
        sizes, modes = zip(*map(_header, found), strict=True)
        size = size or Counter(sizes).most_common(1)[0][0]
        channels = channels or (1 if set(modes) <= {"1", "L"} else 3)
    return _decoded(source, found, size, channels)


def _decoded(source: str, found: Sequence[Picture], size: Size, channels: int) -> Tensor:
    height, width = size
    check_size(source, len(found) * channels * height * width, sum(map(_bytes, found)))
    pixels = np.empty((len(found), channels, height, width), np.uint8)
    resized: Counter[Size] = Counter()
    rotated = 0
    for index, picture in enumerate(found):
        with _opened(picture) as image:
            if image.mode.startswith(("I", "F")):
                raise ImagesError(f"{picture.name} has more than 8 bits a channel")
            whole = image.convert(MODES[channels])
            if image.getexif().get(ORIENTATION, 1) != 1:
                rotated += 1
                whole = ImageOps.exif_transpose(whole) if picture.turned else whole
            if whole.size != (width, height):
                resized[whole.height, whole.width] += 1
                whole = whole.resize((width, height), Image.Resampling.BILINEAR)
            pixels[index] = np.asarray(whole).reshape(height, width, channels).transpose(2, 0, 1)
    _say(source, resized, len(found), size)
    if rotated and not found[0].turned:
        warnings.warn(
            f"{source}: {rotated:,} of {len(found):,} images ask to be rotated by their EXIF data; "
            "they are taken as stored, as torchvision does. If the model saw them upright, rotate "
            "the files",
            UnbackdoorWarning,
            stacklevel=5,
        )
    return torch.from_numpy(pixels)


def upright(picture: Picture) -> Image.Image:
    """The decoded image of `picture`, rotated as its EXIF data ask for if that is wanted of it."""
    with _opened(picture) as image:
        image.load()
        return ImageOps.exif_transpose(image) if picture.turned else image.copy()


def _header(picture: Picture) -> tuple[Size, str]:
    with _opened(picture) as image:
        sides = image.height, image.width
        sideways = picture.turned and image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
        return sides[::-1] if sideways else sides, image.mode


@contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """The image of `picture`, not yet decoded; what goes wrong inside is said with its name."""
    try:
        file = io.BytesIO(picture.data) if isinstance(picture.data, bytes) else picture.data
        if isinstance(file, Path) and file.exists() and not file.is_file():
            raise ImagesError(f"{picture.name} is not a file")  # a pipe or a device has no end
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(file, formats=DECODERS) as image:
                if image.width * image.height > MOST_PIXELS:
                    raise ImagesError(
                        f"{picture.name} has {image.width} x {image.height} pixels; at most "
                        f"{MOST_PIXELS:,} are read"
                    )
                yield image
    except ImagesError:
        raise
    except FileNotFoundError:
        raise ImagesError(f"{picture.name} is missing") from None
    except Exception:  # noqa: BLE001  a decoder breaks in more ways than can be listed
        raise ImagesError(f"{picture.name} is not a readable image") from None


def _bytes(picture: Picture) -> int:
    """How many bytes of a file a picture is; 0 where it is not there, which is said later."""
    if isinstance(picture.data, bytes):
        return len(picture.data)
    try:
        return picture.data.stat().st_size
    except OSError:
        return 0


def _converted(source: str, found: Tensor, size: Size, channels: int) -> Tensor:
    if found.shape[1] == 1 and channels == 3:
        found = found.expand(-1, 3, -1, -1)
    if found.shape[1:] == (channels, *size):
        return found.contiguous()
    if _size(found) != size:
        _say(source, Counter({_size(found): len(found)}), len(found), size)
    return torch.cat([_resized(part, size, channels) for part in torch.split(found, CHUNK)])


def _stacked(
    source: str, found: Sequence[Tensor], size: Size | None, channels: int | None
) -> Tensor:
    """Pixels `[c, h, w]` of several sizes as those of one."""
    places: dict[tuple[int, ...], list[int]] = {}
    for place, pixels in enumerate(found):
        places.setdefault(tuple(pixels.shape), []).append(place)
    sizes = Counter({shape: len(rows) for shape, rows in places.items()})
    _, *most = sizes.most_common(1)[0][0]
    height, width = size or (most[0], most[1])
    channels = channels or max(shape[0] for shape in sizes)
    whole = torch.empty((len(found), channels, height, width), dtype=torch.uint8)
    resized: Counter[Size] = Counter()
    for shape, rows in places.items():
        if shape[1:] != (height, width):
            resized[shape[1], shape[2]] += len(rows)
        for part in torch.split(torch.tensor(rows), CHUNK):
            pixels = torch.stack([found[int(row)] for row in part])
            if pixels.shape[1] < channels:
                pixels = pixels.expand(-1, channels, -1, -1)
            whole[part] = _resized(pixels, (height, width), channels)
    _say(source, resized, len(found), (height, width))
    return whole


def resized(pixels: Tensor, size: Size) -> Tensor:
    """`pixels` uint8 `[n, c, h, w]` in another size."""
    return torch.cat([_resized(p, size, p.shape[1]) for p in torch.split(pixels, CHUNK)])


def _resized(pixels: Tensor, size: Size, channels: int) -> Tensor:
    x = to_float(pixels)
    if x.shape[1] != channels:
        x = (x * torch.tensor(GRAY).view(3, 1, 1)).sum(1, keepdim=True)
    if _size(x) != size:
        x = F.interpolate(x, size, mode="bilinear", antialias=True)
    return to_uint8(x)


def _size(pixels: Tensor) -> Size:
    height, width = pixels.shape[2:]
    return height, width


def _say(source: str, resized: Counter[Size], total: int, size: Size) -> None:
    if not resized:
        return
    (height, width), _ = resized.most_common(1)[0]
    others = f" and {len(resized) - 1} other sizes" if len(resized) > 1 else ""
    warnings.warn(
        f"{source}: {resized.total():,} of {total:,} images resized from {height}x{width}{others} "
        f"to {size[0]}x{size[1]} (height x width)",
        UnbackdoorWarning,
        stacklevel=5,
    )
