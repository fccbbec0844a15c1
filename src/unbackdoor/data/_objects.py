"""Images that are Python objects already: data sets, loaders, arrays, lists of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..core.errors import ImagesError
from ..core.images import to_uint8
from ._pixels import MODES, pixels_of

IMAGES, LABELS = ("img", "image", "images"), ("label", "labels", "fine_label")


def read(
    found: Any, size: tuple[int, int] | None, channels: int | None
) -> tuple[Tensor, Tensor, tuple[str, ...] | None]:
    """(pixels uint8 `[n, c, h, w]`, labels int64 `[n]`, class names if `found` tells them).

    `found` is a `torch.utils.data.Dataset` or `DataLoader`, a Hugging Face `Dataset`, a pair of
    arrays (images, labels), or a sequence of pairs (picture, label). A picture is PIL's, or numbers
    `[c, h, w]` or `[h, w, c]`: uint8, or floats in [0, 1]. Raises `ImagesError` for other things.
    """
    found = getattr(found, "dataset", found)
    kind = type(found).__name__
    try:
        pairs = list(_pairs(found))
    except ImagesError:
        raise
    except Exception as error:  # noqa: BLE001 - a data set may be anyone's code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImagesError(f"a {kind} cannot be read as images with labels: {reason}") from None
    if not pairs:
        raise ImagesError(f"the {kind} holds no images")
    pictures, labels = zip(*pairs, strict=True)
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        raise ImagesError(f"the images of the {kind} have several sizes; resize them in it first")
    numbers = torch.tensor([_label(kind, label) for label in labels], dtype=torch.int64)
    return pixels_of(kind, torch.stack(pictures), size, channels), numbers, _names(found)


def _pairs(found: Any) -> Iterator[tuple[Tensor, Any]]:
    for picture, label in _rows(found):
        yield _picture(picture), label


def _rows(found: Any) -> Iterable[tuple[Any, Any]]:
    columns = getattr(found, "column_names", None)
    if isinstance(columns, Sequence):
        image = next((name for name in IMAGES if name in columns), None)
        label = next((name for name in LABELS if name in columns), None)
        if image is None or label is None:
            raise ImagesError(f"it has no columns of images and labels, but {list(columns)}")
        return ((row[image], row[label]) for row in found)
    if isinstance(found, tuple) and len(found) == 2 and hasattr(found[0], "shape"):
        images, labels = found
        if len(images) != len(labels):
            raise ImagesError(f"{len(images)} images, but {len(labels)} labels")
        return zip(images, labels, strict=True)
    if hasattr(found, "__getitem__") and hasattr(found, "__len__"):
        return (found[index][:2] for index in range(len(found)))
    raise ImagesError(
        f"images must be Images, a source's name, a Dataset or DataLoader, arrays (images, labels) "
        f"or a list of (picture, label), got a {type(found).__name__}"
    )


def _picture(value: Any) -> Tensor:
    if isinstance(value, Image.Image):
        gray = value.mode in ("1", "L")
        value = np.asarray(value.convert(MODES[1 if gray else 3]))
    tensor = torch.as_tensor(np.asarray(value) if not isinstance(value, Tensor) else value)
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim != 3:
        raise ImagesError(f"a picture must be [c, h, w] or [h, w, c], got {list(tensor.shape)}")
    if tensor.shape[0] not in MODES and tensor.shape[2] in MODES:
        tensor = tensor.permute(2, 0, 1)
    if tensor.dtype == torch.uint8:
        return tensor
    low, high = float(tensor.min()), float(tensor.max())
    if not tensor.is_floating_point() or low < 0 or high > 1:
        raise ImagesError(
            f"pictures must be uint8, or floats in [0, 1], got {tensor.dtype} from {low:g} to "
            f"{high:g}; take the normalisation out of the data set, the model has its own"
        )
    return to_uint8(tensor)


def _label(kind: str, value: Any) -> int:
    number = np.asarray(value)
    if number.size != 1 or number.dtype.kind not in "iu":
        raise ImagesError(f"the labels of the {kind} must be whole numbers, got {value!r}"[:200])
    return int(number.reshape(()))


def _names(found: Any) -> tuple[str, ...] | None:
    classes = getattr(found, "classes", None)
    features: Any = getattr(found, "features", None)
    if classes is None and hasattr(features, "get"):
        label = next((name for name in LABELS if name in features), "")
        classes = getattr(features.get(label), "names", None)
    if isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None
