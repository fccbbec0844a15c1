"""Images that are Python objects already: data sets, loaders, arrays, lists of pictures."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils import data as torch_data

from ..core.errors import ImagesError, UnbackdoorWarning, listed
from ..core.images import to_uint8
from ._arrays import labels_of_array, named_labels, pixels_of_array
from ._pixels import MODES, upright
from ._source import Picture, Raw, named, numbered

IMAGES = ("img", "image", "images", "x", "X", "data", "pixels", "pixel_values")
LABELS = ("label", "labels", "fine_label", "class", "target", "targets", "y", "Y")
MOST_BYTES = 2**34
"""Of pixels; whatever gives more is taken to have no end."""


def read(found: Any, columns: tuple[str, str] | None = None) -> Raw:
    """The pictures as pixels uint8, labels, and class names if `found` tells them.

    `found` is a `torch.utils.data.Dataset` or `DataLoader`, a Hugging Face `Dataset`, a pair of
    arrays (images, labels), or a sequence of pairs (picture, label). A picture is PIL's, the path
    of a file, or numbers `[c, h, w]` or `[h, w, c]`: uint8, or floats in [0, 1]. A label is a
    number, one-hot, or a name. `columns` are the names of both in rows that are dicts. Raises
    `ImagesError` for other things.
    """
    kind = type(found).__name__
    try:
        return _read(found, kind, columns)
    except ImagesError:
        raise
    except Exception as error:  # noqa: BLE001 - a data set may be anyone's code
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise ImagesError(f"a {kind} cannot be read as images with labels: {reason}") from None


def _read(found: Any, kind: str, columns: tuple[str, str] | None) -> Raw:
    if isinstance(found, Mapping):
        found = _arrays_in(found, columns)
    if _is_pair(found):
        pixels = pixels_of_array(f"the {kind}", "images", found[0])
        labels = labels_of_array(f"the {kind}", "labels", found[1])
        if len(pixels) != len(labels):
            raise ImagesError(f"the {kind} has {len(pixels)} images, but {len(labels)} labels")
        return _raw(kind, pixels, labels, None)
    pictures: list[Tensor] = []
    values: list[Any] = []
    left = MOST_BYTES
    for picture, label in _rows(found, columns):
        pictures.append(_picture(picture))
        values.append(label)
        left -= pictures[-1].numel()
        if left < 0:
            raise ImagesError(f"the {kind} gives more than {MOST_BYTES >> 30} GiB of images")
    if not values:
        raise ImagesError(f"the {kind} holds no images")
    names = _names(found, columns)
    if all(isinstance(value, str) for value in values):
        labels, texts = named_labels(values)
        return Raw(pictures, labels, texts)
    return _raw(kind, pictures, _labels(kind, values), names)


def _raw(
    kind: str, pixels: Sequence[Tensor] | Tensor, labels: Tensor, names: tuple[str, ...] | None
) -> Raw:
    if names is None:
        count = int(labels.max()) + 1 if len(labels) else 0
        return Raw(pixels, labels, numbered(f"the {kind}", count), numbered=True)
    in_order = [str(label) for label in range(len(names))]
    if list(names) != in_order and sorted(names) == sorted(in_order):
        # torchvision's ImageFolder sorts folders as text; who has one has most likely trained on it
        other = next(place for place, name in enumerate(names) if name != str(place))
        warnings.warn(
            f"the {kind} calls its classes by numbers, but not in their order: label {other} is "
            f"called {names[other]!r}. Labels are taken as it gives them; if the model goes by the "
            "names, give its folder instead",
            UnbackdoorWarning,
            stacklevel=6,
        )
        return Raw(pixels, labels, tuple(in_order), numbered=True)
    return Raw(pixels, labels, names)


def _is_pair(found: Any) -> bool:
    return (
        isinstance(found, tuple | list)
        and len(found) == 2
        and hasattr(found[0], "shape")
        and len(found[0].shape) in (3, 4)
        and len(getattr(found[1], "shape", found[0].shape)) in (1, 2)
    )


def _arrays_in(found: Mapping[Any, Any], columns: tuple[str, str] | None) -> tuple[Any, Any]:
    """The two arrays in a dict of them."""
    image, label = columns or _known(found)
    if image in found and label in found:
        return found[image], found[label]
    raise ImagesError(
        f"a dict of {listed(map(str, found))}: give one part of it, or arrays (images, labels)"
    )


def _known(names: Iterable[Any]) -> tuple[str, str]:
    held, tell = set(names), "columns=(images, labels)"
    return named("the images", IMAGES, held, tell), named("the labels", LABELS, held, tell)


def _rows(found: Any, columns: tuple[str, str] | None) -> Iterator[tuple[Any, Any]]:
    """Each picture with its label; batches are taken apart."""
    for row in _each(found):
        if isinstance(row, Mapping):
            image, label = columns or _known(row)
            if image not in row or label not in row:
                raise ImagesError(
                    "its rows need an image and a label, such as 'image' and 'label'; they have "
                    f"{listed(map(str, row))}: say which, columns=(images, labels)"
                )
            picture, value = row[image], row[label]
        elif isinstance(row, tuple | list) and len(row) >= 2:
            picture, value = row[:2]
        else:
            raise ImagesError(f"its rows must be (picture, label), not {type(row).__name__}")
        if len(getattr(picture, "shape", ())) == 4 and len(picture) == len(value):
            yield from zip(picture, value, strict=True)
        else:
            yield picture, value


def _each(found: Any) -> Iterable[Any]:
    if isinstance(found, torch_data.DataLoader):
        if isinstance(found.dataset, torch_data.IterableDataset):
            return _iterated(found.dataset)
        return (found.dataset[index] for index in _drawn(found))
    if isinstance(getattr(found, "column_names", None), Sequence):
        return _iterated(found)  # of Hugging Face
    if isinstance(found, str | bytes):
        raise _no_images(found)
    if hasattr(found, "__getitem__") and hasattr(found, "__len__"):
        return (found[index] for index in range(len(found)))
    if hasattr(found, "__iter__"):
        return _iterated(found)
    raise _no_images(found)


def _iterated(found: Any) -> Iterator[Any]:
    yield from found


def _no_images(found: object) -> ImagesError:
    return ImagesError(
        "images must be Images, a source's name, a Dataset or DataLoader, arrays (images, labels) "
        f"or a list of (picture, label), got a {type(found).__name__}"
    )


def _drawn(loader: torch_data.DataLoader[Any]) -> Iterable[int]:
    """Which of its data set's images a loader gives, in their order there."""
    drawn: Any = loader.batch_sampler
    if drawn is None or type(drawn) is torch_data.BatchSampler:
        drawn = loader.sampler
    whole = range(len(loader.dataset))  # type: ignore[arg-type]
    if type(drawn) is torch_data.SequentialSampler:
        return whole
    if type(drawn) is torch_data.RandomSampler and not drawn.replacement:
        return whole if drawn.num_samples == len(whole) else _sorted(drawn)
    return _sorted(drawn)


def _sorted(drawn: Iterable[Any]) -> list[int]:
    with torch.random.fork_rng(devices=[]):  # drawing is nobody's business outside
        return sorted(
            int(index)
            for part in drawn
            for index in (part if isinstance(part, list | tuple) else (part,))
        )


def _picture(value: Any) -> Tensor:
    if isinstance(value, str | Path):
        value = upright(Picture(str(value), Path(value)))
    elif isinstance(value, Mapping) and isinstance(value.get("bytes"), bytes):
        value = upright(Picture("an image", value["bytes"], turned=True))
    if isinstance(value, Image.Image):
        if value.mode.startswith(("I", "F")):
            raise ImagesError(f"a picture of mode {value.mode} has more than 8 bits a channel")
        value = np.asarray(value.convert(MODES[1 if value.mode in ("1", "L") else 3]))
    # Copied: torch warns of arrays that cannot be written to.
    tensor = value.detach().cpu() if isinstance(value, Tensor) else torch.from_numpy(_copy(value))
    if tensor.ndim == 2:
        tensor = tensor.unsqueeze(0)
    if tensor.ndim == 3 and tensor.shape[0] not in MODES and tensor.shape[2] in MODES:
        tensor = tensor.permute(2, 0, 1)
    if tensor.ndim != 3 or tensor.shape[0] not in MODES or not tensor.numel():
        raise ImagesError(
            f"a picture must be [c, h, w] or [h, w, c] of 1 or 3 channels, got {list(tensor.shape)}"
        )
    if tensor.dtype == torch.uint8:
        return tensor
    low, high = float(tensor.min()), float(tensor.max())
    if not tensor.is_floating_point() or not (low >= 0 and high <= 1):
        raise ImagesError(
            f"pictures must be uint8, or floats in [0, 1], got {tensor.dtype} from {low:g} to "
            f"{high:g}; take the normalisation out of the data set, the model has its own"
        )
    return to_uint8(tensor)


def _copy(value: Any) -> Any:
    array = np.array(value)
    if array.dtype.kind not in "fiub":
        raise ImagesError(f"a picture must be PIL's, numbers or a path, not {type(value).__name__}")
    return array


def _labels(kind: str, values: Sequence[Any]) -> Tensor:
    try:
        rows = [np.asarray(value.cpu() if isinstance(value, Tensor) else value) for value in values]
        whole = np.stack(
            [row.reshape(()) if row.size == 1 else row for row in rows or [np.zeros(0)]]
        )
        return labels_of_array(f"the {kind}", "labels", whole)
    except (TypeError, ValueError) as error:
        if isinstance(error, ImagesError):
            raise
        raise ImagesError(
            f"the labels of the {kind} must be whole numbers, one-hot, or names, got {values[0]!r}"[
                :200
            ]
        ) from None


def _names(found: Any, columns: tuple[str, str] | None) -> tuple[str, ...] | None:
    """The classes that a data set, or what it is a part of, names."""
    if isinstance(found, torch_data.DataLoader | torch_data.Subset):
        return _names(found.dataset, columns)
    if getattr(found, "target_transform", None) is not None:
        return None  # its labels may be others
    classes = getattr(found, "classes", None)
    features: Any = getattr(found, "features", None)
    if classes is None and hasattr(features, "get"):
        _, label = columns or _known(features)
        classes = getattr(features.get(label), "names", None)
    if isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes):
        return tuple(classes)
    return None
