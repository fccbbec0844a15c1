"""Folders as transformers and timm write them, made here without a download."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from unbackdoor.checkpoints import checkpoint, hub
from unbackdoor.cli import main
from unbackdoor.core.errors import CheckpointError, RefusedFileError, UnbackdoorWarning

NAMES = {0: "cat", 1: "dog", 2: "eel"}
SCALE = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}
SMALL = {
    "ViT": {
        **{"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2},
        **{"intermediate_size": 16, "image_size": 16, "patch_size": 4},
    },
    "ResNet": {
        **{"embedding_size": 4, "hidden_sizes": [4, 8], "depths": [1, 1], "layer_type": "basic"}
    },
    "ConvNext": {"num_stages": 2, "hidden_sizes": [4, 8], "depths": [1, 1], "patch_size": 2},
    "Swin": {
        **{"embed_dim": 4, "depths": [1, 1], "num_heads": [1, 2], "window_size": 2},
        **{"image_size": 16, "patch_size": 2},
    },
}
NOISE = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def theirs(family, folder, **more):
    """A tiny classifier of transformers, written by transformers."""
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, f"{family}Config")(
        **SMALL[family], id2label=NAMES, label2id={name: i for i, name in NAMES.items()}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = getattr(transformers, f"{family}ForImageClassification")(config).eval()
    net.save_pretrained(folder)
    said = {"size": {"height": 16, "width": 16}, **SCALE, **more}
    (folder / hub.PREPROCESSOR).write_text(json.dumps(said))
    return net


def logits(net, x=NOISE):
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in SCALE.values())
    with torch.no_grad():
        return net((x - mean) / std).logits


def change(path: Path, **said):
    path.write_text(json.dumps({**json.loads(path.read_text()), **said}))


@pytest.mark.parametrize("family", SMALL)
def test_a_folder_of_transformers_opens_and_what_is_written_goes_back(family, tmp_path):
    import transformers

    net = theirs(family, tmp_path / "in")
    found = checkpoint.load(tmp_path / "in")
    assert found.spec.classes == ("cat", "dog", "eel") and found.spec.size == (16, 16)
    assert found.spec.mean == (0.5, 0.4, 0.3) and found.spec.std == (0.2, 0.3, 0.4)
    with torch.no_grad():
        assert torch.equal(found(NOISE), logits(net))

    for tensor in found.net.parameters():
        tensor.data.add_(0.01)
    checkpoint.save(found, tmp_path / "out" / "model.safetensors", {})
    names = [load_file(tmp_path / part / "model.safetensors").keys() for part in ("in", "out")]
    assert names[0] == names[1]
    for file in hub.companions(tmp_path / "in"):
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    again, told = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and not told["unexpected_keys"]
    with torch.no_grad():
        assert torch.equal(logits(again.eval()), found(NOISE))
        for path in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
            assert torch.equal(checkpoint.load(path)(NOISE), found(NOISE))


def test_a_repair_of_a_folder_can_be_loaded_by_transformers(tmp_path, capsys):
    import transformers

    theirs("ResNet", tmp_path / "in")
    import numpy as np

    pixels = np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)
    classes = np.array(["cat", "dog", "eel"])
    np.savez(tmp_path / "clean.npz", images=pixels, labels=np.arange(12) % 3, classes=classes)
    command = [
        *("repair", tmp_path / "in", "--clean", tmp_path / "clean.npz", "--out", tmp_path / "out"),
        *("--defense", "fine_tuning", "-p", "epochs=1", "--device", "cpu"),
    ]
    assert main([str(part) for part in command]) == 0, capsys.readouterr().err
    again, told = transformers.AutoModelForImageClassification.from_pretrained(
        tmp_path / "out", output_loading_info=True
    )
    assert not told["missing_keys"] and again.config.id2label == NAMES
    with torch.no_grad():
        expected = checkpoint.load(tmp_path / "out")(NOISE)
        torch.testing.assert_close(logits(again.eval()), expected)
    assert (tmp_path / "out" / hub.PREPROCESSOR).is_file()


def test_pixels_that_are_scaled_otherwise_are_scaled_so(tmp_path):
    net = theirs("ResNet", tmp_path, do_rescale=False, image_mean=[127.5] * 3, image_std=[51] * 3)
    found = checkpoint.load(tmp_path)
    with torch.no_grad():
        theirs_say = net((NOISE * 255 - 127.5) / 51).logits
        torch.testing.assert_close(found(NOISE), theirs_say, atol=1e-4, rtol=1e-4)


def test_code_of_a_folder_is_never_run(tmp_path, monkeypatch):
    theirs("ViT", tmp_path)
    (tmp_path / "modeling_evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')")
    change(tmp_path / hub.CONFIG, auto_map={"AutoModel": "modeling_evil.Evil"})
    monkeypatch.chdir(tmp_path)
    with pytest.warns(UnbackdoorWarning, match="auto_map.*not run"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"model_type": "evil.module"}, "unknown architecture 'transformers:evil.module'"),
        ({"hidden_act": "os.system"}, "hidden_act in its header"),
        ({"hidden_act": "exec"}, "unknown hidden_act"),
        ({"hidden_size": 2**40}, "does not fit|cannot be built"),
        ({"id2label": {"0": "a", "7": "b"}}, "does not number its classes"),
        ({"architectures": ["ViTMAEModel"]}, "not an image classifier"),
        ({"model_type": 3}, "names no architecture"),
        ({"architecture": "hf-hub:a/b", "id2label": None}, "RefusedFile|unknown|refused"),
    ],
)
def test_hostile_and_damaged_configurations(tmp_path, said, told):
    theirs("ViT", tmp_path)
    change(tmp_path / hub.CONFIG, **said)
    with pytest.raises(ValueError, match=told) as caught:
        checkpoint.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_json_that_is_none(tmp_path):
    theirs("ViT", tmp_path)
    for text in ("[1]", "{", "[" * 100_000, '{"a": NaN'):
        (tmp_path / hub.CONFIG).write_text(text)
        with pytest.raises(CheckpointError, match="JSON"):
            checkpoint.load(tmp_path)


def test_folders_that_are_none_of_the_hub(tmp_path):
    with pytest.raises(CheckpointError, match=r"without config\.json"):
        checkpoint.load(tmp_path)
    (tmp_path / hub.CONFIG).write_text('{"model_type": "vit"}')
    with pytest.raises(CheckpointError, match=r"without model\.safetensors or pytorch_model\.bin"):
        checkpoint.load(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}')
    with pytest.raises(CheckpointError, match="not a file beside it"):
        checkpoint.load(tmp_path)


def test_shards_are_put_together(tmp_path):
    net = theirs("ViT", tmp_path)
    (tmp_path / "model.safetensors").unlink()
    net.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    with torch.no_grad():
        assert torch.equal(checkpoint.load(tmp_path)(NOISE), logits(net))


def test_a_folder_of_timm_opens_and_what_is_written_goes_back(tmp_path):
    timm = pytest.importorskip("timm")
    from timm.models import save_for_hf

    net = timm.create_model("test_resnet", num_classes=3).eval()
    save_for_hf(net, tmp_path / "in", safe_serialization=True)
    change(tmp_path / "in" / hub.CONFIG, label_names=["cat", "dog", "eel"])
    found = checkpoint.load(tmp_path / "in")
    assert found.spec.arch == "timm:test_resnet" and found.spec.classes == ("cat", "dog", "eel")
    assert found.spec.size == (160, 160) and found.spec.mean == (0.5, 0.5, 0.5)
    with torch.no_grad():
        assert torch.equal(found(NOISE), net((NOISE - 0.5) / 0.5))
    checkpoint.save(found, tmp_path / "out" / "model.safetensors", {})
    for file in hub.companions(tmp_path / "in"):
        (tmp_path / "out" / file.name).write_bytes(file.read_bytes())
    again = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(again((NOISE - 0.5) / 0.5), found(NOISE))
    change(tmp_path / "in" / hub.CONFIG, model_args={"act_layer": "os"})
    with pytest.raises(RefusedFileError, match="act_layer"):
        checkpoint.load(tmp_path / "in")
