"""list: what there is to choose from."""

from __future__ import annotations

from . import options as o
from .console import Console, table

KINDS = ("a folder of class folders", ".npz", ".parquet", "attack_result.pt")


def listing(as_json: o.Json = False) -> int:
    """List attacks, defenses, scanners, architectures and sources of images."""
    with Console(as_json=as_json) as console:
        from .. import data, models
        from ..core import method

        found = {
            "attacks": list(method.names("attack")),
            "defenses": list(method.names("defense")),
            "scanners": list(method.names("scanner")),
            "architectures": [
                *models.names(),
                "timm:NAME",
                "mynet.py:Net",
                "package.module:factory",
            ],
            "sources": [*data.names(), *KINDS],
        }
        rows = [(kind, ", ".join(names)) for kind, names in found.items()]
        shown = table(("kind", "names"), rows)
        shown.columns[1].justify, shown.columns[1].no_wrap = "left", False
        console.result(found, shown)
        return 0
