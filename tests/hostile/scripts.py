"""TorchScript archives that were changed."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

import torch

from . import opcodes as op
from .inputs import CANARY, EITHER, INSPECT, Input


def inputs() -> Iterator[Input]:
    class Small(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x)

    def script(change: str) -> Input:
        def make(folder: Path) -> list[str]:
            path = folder / "a.pt"
            torch.jit.save(torch.jit.trace(Small(), torch.ones(1, 2)), path)
            with zipfile.ZipFile(path) as archive:
                members = {name: archive.read(name) for name in archive.namelist()}
            root = next(iter(members)).partition("/")[0]
            if change == "constants that call code":
                members[f"{root}/constants.pkl"] = op.steps(
                    op.called("os.system", op.text(f"touch {CANARY}"))
                )
            elif change == "code that is python":
                members[f"{root}/code/__torch__/x.py"] = b"import os; os.system('touch canary')"
            elif change == "members that are paths":
                members |= {
                    "../../stolen": b"x",
                    "/tmp/stolen-by-a-script": b"x",
                    f"{root}/../../s": b"x",
                }
            elif change == "truncated code":
                members = {
                    name: data[:20] if "code" in name else data for name, data in members.items()
                }
            elif change == "a pickle that is cut":
                members[f"{root}/data.pkl"] = members[f"{root}/data.pkl"][:-40]
            elif change == "two pickles":
                members[f"{root}/x/data.pkl"] = members[f"{root}/data.pkl"]
            with zipfile.ZipFile(path, "w") as archive:
                for name, data in members.items():
                    archive.writestr(name, data)
            return INSPECT

        return Input("torchscript", f"an archive with {change}", make, EITHER)

    for change in (
        *(
            "constants that call code",
            "code that is python",
            "members that are paths",
            "two pickles",
        ),
        *("truncated code", "a pickle that is cut", "nothing changed"),
    ):
        yield script(change)
