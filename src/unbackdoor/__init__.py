"""Take backdoors out of trained image classifiers, and measure fairly what works.

The public names are read when they are first used, so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import evaluate, load_images, load_model, load_triggered, repair
    from .defense import Repair
    from .errors import UnbackdoorError, UnbackdoorWarning
    from .images import Images, Triggered
    from .measure import Rate, Score
    from .run import Run

__version__ = "0.1.0"

__all__ = [
    "Images",
    "Rate",
    "Repair",
    "Run",
    "Score",
    "Triggered",
    "UnbackdoorError",
    "UnbackdoorWarning",
    "evaluate",
    "load_images",
    "load_model",
    "load_triggered",
    "repair",
]

_ROOMS = {
    "Images": "images",
    "Rate": "measure",
    "Repair": "defense",
    "Run": "run",
    "Score": "measure",
    "Triggered": "images",
    "UnbackdoorError": "errors",
    "UnbackdoorWarning": "errors",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_ROOMS.get(name, 'api')}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
