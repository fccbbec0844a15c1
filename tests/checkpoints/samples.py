"""A small model's files, and pickles written by hand."""

import json
import pickle

import torch
from safetensors.torch import save_file

from unbackdoor import models

SPEC = models.Spec("preact_resnet18", ("a", "b", "c"), (0.4,) * 3, (0.2,) * 3, {"width": 2})
BARE = {"arch": "preact_resnet18", "classes": 3, "mean": (0.4,) * 3, "std": (0.2,) * 3}


def with_header(path, model, **header):
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in header.items()}
    save_file(model.net.state_dict(), path, texts)
    return path


def steps(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def text(told: str) -> bytes:
    return b"\x8c" + bytes([len(told)]) + told.encode()


def ways():
    """Every format a torch pickle comes in, and plain pickles of every protocol."""
    yield "zip", lambda value, path: torch.save(value, path)
    yield (
        "legacy",
        lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False),
    )
    for protocol in range(6):
        yield (
            f"pickle{protocol}",
            lambda value, path, p=protocol: path.write_bytes(pickle.dumps(value, p)),
        )


WAYS = dict(ways())
