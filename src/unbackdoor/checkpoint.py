"""Models on disk: read from safetensors, state dicts and BackdoorBench results; written whole.

No file is ever run. A file may name an architecture of ours, torchvision's or timm's; code of the
person's own (`package.module:factory`) is only called when the person names it.
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from . import _stored, models
from ._stored import Stored
from .errors import (
    CheckpointError,
    OutputError,
    ParameterError,
    RefusedFileError,
    UnbackdoorWarning,
)
