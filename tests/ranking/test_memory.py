"""How much memory a ranking takes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch

from ranking.samples import NUDGE, RUN, data, net
from unbackdoor.core import memory
from unbackdoor.ranking.ranking import Ranker, rows_per_pass


def test_passes_shrink_with_the_memory_that_is_free(monkeypatch):
    model = net()
    x, y, signs = data(4)
    assert rows_per_pass(model, x, RUN) == 64 * 16  # 8x8: a sixteenth of 32x32
    assert rows_per_pass(model, torch.rand(1, 3, 64, 64), RUN) == 16
    # In float32: the image, conv, norm, act, conv, act, pool, flat, head; twice.
    each = 2 * 4 * (192 + 3 * 384 + 2 * 576 + 36 + 36 + 3)
    assert memory.bytes_per_image(model, x[:1], RUN) == each
    assert not any(module._forward_hooks for module in model.modules())
    for free, rows in ((1024 * each * 2, 1024), (1024 * each * 2 - 2, 512), (0, 1)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, free=free: free)
        assert rows_per_pass(model, x, RUN) == rows == Ranker(model, x, y, signs, NUDGE, RUN).rows


MEMORY = """
import resource, torch, torchvision
from dataclasses import replace
from torch import nn
from unbackdoor.network.layers import find_layers
from unbackdoor.ranking.ranking import Ranker
from unbackdoor.ranking.reverse import Nudge
from unbackdoor.core import memory
from unbackdoor.core.run import Run
torch.set_num_threads(1)

def rank(model, n, size, names, channels, precision="fp32"):
    x = torch.rand(n, 3, size, size)
    signs, y = torch.ones_like(x), torch.zeros(n, dtype=torch.int64)
    ranker = Ranker(model, x, y, signs, Nudge(0.06, 0.02, 1), Run(precision=precision))
    layers = [layer for layer in find_layers(model, x[:1]) if layer.name.startswith(names)]
    assert layers
    for layer in layers:
        ranker.rank(replace(layer, channels=channels), 1, lambda _: None)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def peaks_mib(code: str) -> list[float]:
    """Peak memory of a process of its own after each `rank` in the `code`."""
    done = subprocess.run(
        [sys.executable, "-c", MEMORY + code],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    return [float(line) for line in done.stdout.split()]


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX usage counts")
def test_memory_does_not_grow_with_the_images():
    """All at once, 960 more images would take 120 MiB more for each of three sets of maps."""
    few, many = peaks_mib("""
model = nn.Sequential(
    nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU(),
    nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 2)).eval()
rank(model, 64, 32, "2", 4)
rank(model, 1024, 32, "2", 4)
""")
    inputs = 3 * 960 * 3 * 32 * 32 * 4 / 2**20  # the images, their signs, and some to spare
    assert many - few < inputs + 60  # what is freed is not always given back: 0 to 35 MiB


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX usage counts")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_256_images_of_full_width_stay_under_3_gib(precision):
    """The widest maps and the widest layer."""
    (peak,) = peaks_mib(f"""
from unbackdoor.models import preact_resnet18
model = preact_resnet18.build(10).eval()
rank(model, 256, 32, ("layer1.0.conv2", "layer4.1.conv2"), 1, {precision!r})
""")[-1:]
    assert peak < 3 * 1024


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX usage counts")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_stage_of_resnet50_at_224_stays_under_3_gib(precision):
    (peak,) = peaks_mib(f"""
model = torchvision.models.resnet50().eval()
rank(model, 2, 224, "layer1.", 2, {precision!r})
""")
    assert peak < 3 * 1024
