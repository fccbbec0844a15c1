"""Every defense on small classifiers of transformers: repaired, written, and read back the same."""

from __future__ import annotations

import warnings

import pytest
import torch
from tests.checkpoints.test_hub import NOISE, SMALL, theirs
from tests.test_contracts import DEFENSES, short

from unbackdoor.checkpoints import checkpoint, hub
from unbackdoor.core.errors import ModelError
from unbackdoor.core.images import Images
from unbackdoor.core.run import Run

INSERTING = {"npd", "unit"}
"""What adds layers, so that only unbackdoor reads the repaired file."""
NORMED = {"bnp", "clp"}
"""What needs batch norms, and says so."""
MAPPED = {"nad", "npd"}
"""What needs maps behind the first layer, which a network of tokens does not have."""
TOKENS = {"ViT", "Swin"}
ONCE_BROKEN = {
    ("ViT", "fmp"),
    ("ViT", "unit"),
    ("ViT", "ims"),
    ("ConvNext", "fine_pruning"),
    ("ConvNext", "npd"),
    ("Swin", "fine_pruning"),
}
PAIRS = [
    pytest.param(family, name, marks=[] if (family, name) in ONCE_BROKEN else pytest.mark.slow)
    for family in SMALL
    for name in DEFENSES
]


@pytest.mark.parametrize(("family", "name"), PAIRS)
def test_a_defense_repairs_a_network_of_transformers(family, name, tmp_path):
    transformers = pytest.importorskip("transformers")
    theirs(family, tmp_path / "in")
    model = checkpoint.load(tmp_path / "in")
    rng = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (36, 3, 16, 16), generator=rng, dtype=torch.uint8)
    clean = Images(pixels, torch.arange(36) % 3, model.spec.classes)
    defense = short("defense", name)
    if (name in NORMED and family != "ResNet") or (name in MAPPED and family in TOKENS):
        with pytest.raises(ModelError, match=f"{name} needs "):
            defense.repair(model, clean, Run())
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        repaired = defense.repair(model, clean, Run()).model.eval()
    checkpoint.save(repaired, tmp_path / "out" / "model.safetensors", {})
    again = checkpoint.load(tmp_path / "out" / "model.safetensors")
    with torch.no_grad():
        assert torch.allclose(again(NOISE), repaired(NOISE), atol=1e-5)
    if name in INSERTING or (name == "ims" and family in TOKENS):
        return
    for file in hub.companions(tmp_path / "in"):
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    _, told = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
