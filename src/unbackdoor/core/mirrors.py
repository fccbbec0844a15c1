"""Mirror images that mean something else: traffic signs."""

from __future__ import annotations

import warnings

from .errors import UnbackdoorWarning
from .images import Images
from .method import Method

SIGNS = 43
"""The classes of GTSRB."""


def warn_of_mirrors(method: Method, images: Images) -> None:
    """Warns where traffic signs would be mirrored only because nobody said otherwise."""
    mirrors = getattr(method, "flip", False) and "flip" not in method.model_fields_set
    if mirrors and len(images.classes) == SIGNS:
        warnings.warn(
            f"{SIGNS} classes are those of GTSRB, whose signs mean something else when mirrored, "
            "and half of the images will be: -p flip=false",
            UnbackdoorWarning,
            stacklevel=2,
        )
