"""Take backdoors out of trained image classifiers, and measure fairly what works.

The public names are read when they are first used, so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .core.version import __version__ as __version__

if TYPE_CHECKING:
    from .api import (
        attack,
        evaluate,
        load_images,
        load_model,
        load_triggered,
        poison,
        repair,
        scan,
    )
    from .attacks.base.parts import Poison, Poisoned, Victim
    from .core.errors import UnbackdoorError, UnbackdoorWarning
    from .core.images import Images, Triggered
    from .core.measure import Rate, Score
    from .core.run import Run
    from .defenses.base.defense import Repair
    from .scanners.base.verdict import Verdict

__all__ = [
    "Images",
    "Poison",
    "Poisoned",
    "Rate",
    "Repair",
    "Run",
    "Score",
    "Triggered",
    "UnbackdoorError",
    "UnbackdoorWarning",
    "Verdict",
    "Victim",
    "attack",
    "evaluate",
    "load_images",
    "load_model",
    "load_triggered",
    "poison",
    "repair",
    "scan",
]

_ROOMS = {
    "Images": "core.images",
    "Poison": "attacks.base.parts",
    "Poisoned": "attacks.base.parts",
    "Rate": "core.measure",
    "Repair": "defenses.base.defense",
    "Run": "core.run",
    "Score": "core.measure",
    "Triggered": "core.images",
    "UnbackdoorError": "core.errors",
    "UnbackdoorWarning": "core.errors",
    "Verdict": "scanners.base.verdict",
    "Victim": "attacks.base.parts",
}


def __getattr__(name: str) -> Any:
    if name == "errors":  # the tree of exceptions, by the name that people know
        return importlib.import_module(".core.errors", __name__)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(importlib.import_module(f".{_ROOMS.get(name, 'api')}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted((*__all__, "__version__"))
