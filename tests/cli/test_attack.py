from __future__ import annotations

import json

import pytest
from PIL import Image

from unbackdoor.core.files import sha256
from unbackdoor.core.run import Run


@pytest.fixture
def plant(tiny):
    return [
        *("attack", "badnets", "--data", tiny.clean, "--arch", "preact_resnet18"),
        *("--test", tiny.test),
        *("--model-option", "width=2", "--device", "cpu", "--precision", "fp32"),
        *("-p", "epochs=2", "-p", "rate=0.5", "-p", "batch=8", "--min-asr", 0),
    ]


def test_writes_a_victim_that_evaluate_and_repair_can_read(run, plant, tiny, tmp_path):
    done = run(*plant, "-p", "target=1", "--out", tmp_path / "v", "--json")
    assert done.code == 0, done.err
    assert {path.name for path in (tmp_path / "v").iterdir()} == {
        *("model.safetensors", "triggered_test.npz", "record.json")
    }
    record = done.json
    assert record == json.loads((tmp_path / "v" / "record.json").read_text())
    assert record["attack"]["name"] == "badnets" and record["attack"]["parameters"]["rate"] == 0.5
    assert record["poisoned"]["stamped"] == 10 == record["learned"]["clean"]["total"]
    # Those of the ten whose class is the target already teach nothing.
    assert 0 < record["learned"]["relabelled"]["total"] < 10
    assert record["triggered"]["target"] == 1 and record["triggered"]["images"] == 6
    measured = run(
        *("evaluate", tmp_path / "v" / "model.safetensors", "--test", tiny.test, "--json"),
        *("--triggered", tmp_path / "v" / "triggered_test.npz", "--target", "bee"),
    )
    assert measured.json["before"] == record["before"]


def test_a_person_is_shown_what_was_learned_and_how_visible_the_trigger_is(run, plant, tmp_path):
    done = run(*plant, "-p", "target=1", "--out", tmp_path / "v")
    for line in (
        *("accuracy (ACC)", "attack success (ASR)", "robust accuracy (RA)"),
        *("learned, relabelled training images", "learned, clean training images"),
        *("PSNR of triggered images, test", "SSIM, test", "largest change (L-inf), test"),
        *("PSNR of triggered images, training", "SSIM, training"),
    ):
        assert line in done.out
    seen = json.loads((tmp_path / "v" / "record.json").read_text())["visibility"]
    assert seen.keys() == {"test", "training"}
    assert all(found.keys() == {"psnr", "ssim", "linf"} for found in seen.values())
    assert f"{seen['test']['psnr']:.1f} dB" in done.out


def test_an_untrained_victim_is_warned_about_and_misses_its_bound(run, plant, tmp_path):
    done = run(*plant, "--min-asr", 1, "-p", "lr=1e-9", "--out", tmp_path / "v", "--json")
    said = [line for line in done.json["warnings"] if "it flatters every defense" in line]
    for kind, wanted in (("relabelled", 95), ("clean", 90)):
        reached = 100 * done.json["learned"][kind]["value"]
        line = f"learned {reached:.1f} % of its {kind} training images, less than {wanted} %"
        assert any(line in warned for warned in said) == (reached < wanted)
    assert said
    reached = done.json["before"]["asr"]["value"]
    assert done.code == (1 if reached < 1 else 0)
    assert done.json["success"] == {"min_asr": 1, "met": reached >= 1}
    assert (f"missed: ASR is {reached:.4f}" in done.err) == (reached < 1)


def test_without_a_test_set_a_tenth_is_held_out(run, plant, tiny, tmp_path):
    at = plant.index("--test")
    done = run(*plant[:at], *plant[at + 2 :], "--out", tmp_path / "v", "--seed", 1, "--json")
    assert done.code == 0, done.err
    assert done.json["test"]["images"] == 2 and done.json["data"]["images"] == 18


def test_a_stopped_training_goes_on_and_gives_the_same_bits(run, plant, tmp_path, monkeypatch):
    assert run(*plant, "--out", tmp_path / "straight").code == 0
    rng, epochs = Run.rng, []

    def stopping(self, name):
        if name.startswith("training/"):
            epochs.append(name)
            if len(epochs) == 2:
                raise KeyboardInterrupt
        return rng(self, name)

    monkeypatch.setattr(Run, "rng", stopping)
    stopped = run(*plant, "--out", tmp_path / "stopped")
    assert stopped.code == 130
    assert [path.name for path in (tmp_path / "stopped").iterdir()] == ["training"]
    other = run(*plant, "-p", "lr=0.5", "--out", tmp_path / "stopped")
    assert other.code == 2 and "begun with another attack" in other.err
    assert run(*plant, "--out", tmp_path / "stopped").code == 0
    assert epochs == ["training/0", "training/1", "training/1"]
    from unbackdoor.checkpoints import checkpoint

    ours, theirs = (
        checkpoint.load(tmp_path / name / "model.safetensors").state_dict()
        for name in ("straight", "stopped")
    )
    assert all((ours[key] == theirs[key]).all() for key in ours)


def test_another_picture_at_the_same_path_is_another_training(run, plant, tmp_path, monkeypatch):
    picture, rng = tmp_path / "patch.png", Run.rng
    Image.new("RGB", (3, 3), (255, 0, 0)).save(picture)
    plant = [*plant, "-p", f"patch={picture}", "--out", tmp_path / "v"]

    def stopping(self, name):
        if name == "training/1":
            raise KeyboardInterrupt
        return rng(self, name)

    with monkeypatch.context() as patch:
        patch.setattr(Run, "rng", stopping)
        assert run(*plant).code == 130
    Image.new("RGB", (3, 3), (0, 255, 0)).save(picture)
    other = run(*plant)
    assert other.code == 2 and "begun with another files" in other.err
    done = run(*plant, "--force", "--json")
    assert done.json["files"] == {"patch": sha256(picture)}
    picture.unlink()
    gone = run(*plant, "--force")
    assert gone.code == 2 and len(gone.errors) == 1


def test_the_asr_on_classes_that_are_no_sources_is_shown(run, plant, tmp_path):
    done = run(*plant, "-p", "target=1", "-p", "sources=[0]", "--out", tmp_path / "v")
    assert "ASR on classes that are no sources" in done.out


@pytest.mark.parametrize("file", ["state.pt", "arguments.json"])
@pytest.mark.parametrize("left", [0, 50])
def test_a_damaged_state_is_one_line_and_force_starts_anew(
    run, plant, tmp_path, monkeypatch, file, left
):
    rng = Run.rng

    def stopping(self, name):
        if name == "training/1":
            raise KeyboardInterrupt
        return rng(self, name)

    out = tmp_path / "v"
    with monkeypatch.context() as patched:
        patched.setattr(Run, "rng", stopping)
        assert run(*plant, "--out", out).code == 130
    damaged = out / "training" / file
    damaged.write_bytes(damaged.read_bytes()[:left])
    again = run(*plant, "--out", out)
    assert again.code == 2 and len(again.errors) == 1, again
    assert f"{file} is damaged" in again.errors[0] and "start anew with --force" in again.errors[0]
    assert run(*plant, "--out", out, "--force").code == 0
    assert not (out / "training").exists()


def test_force_goes_on_with_a_whole_state_of_the_same_command(run, plant, tmp_path, monkeypatch):
    rng, epochs = Run.rng, []

    def stopping(self, name):
        if name.startswith("training/"):
            epochs.append(name)
            if len(epochs) == 2:
                raise KeyboardInterrupt
        return rng(self, name)

    monkeypatch.setattr(Run, "rng", stopping)
    for code in (130, 0):
        assert run(*plant, "--out", tmp_path / "v", "--force").code == code
    assert epochs == ["training/0", "training/1", "training/1"]


def without_arch(plant):
    at = plant.index("--arch")
    rest = plant[:at] + plant[at + 2 :]
    at = rest.index("--model-option")
    return rest[:at] + rest[at + 2 :]


def test_starts_from_the_weights_of_a_given_model(run, plant, tiny, tmp_path):
    from unbackdoor.checkpoints import checkpoint

    still = ("-p", "lr=1e-9", "-p", "weight_decay=0", "--model", tiny.model)
    done = run(*without_arch(plant), *still, "--out", tmp_path / "v", "--json")
    assert done.code == 0, done.err
    assert done.json["model"]["file"] == tiny.model.name and done.json["model"]["sha256"]
    ours, theirs = (
        checkpoint.load(path) for path in (tmp_path / "v" / "model.safetensors", tiny.model)
    )
    assert ours.spec == theirs.spec
    known = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        assert (value - known[name]).abs().max() < 1e-5, name


def test_a_trigger_is_learned_on_a_given_model_alone(run, plant, tiny, tmp_path):
    given = ["attack", "lf", *without_arch(plant)[2:], "-p", "clean_epochs=0", "-p", "steps=1"]
    done = run(*given, "--model", tiny.model, "--out", tmp_path / "v", "--json")
    assert done.code == 0, done.err
    assert "trigger" in done.json["seconds"] and "clean model" not in done.json["seconds"]


@pytest.mark.parametrize("name", ["lf", "trojannn", "label_consistent"])
def test_fresh_weights_are_no_clean_model(run, plant, name, tmp_path):
    done = run("attack", name, *plant[2:], "-p", "clean_epochs=0", "--out", tmp_path / "v")
    assert done.code == 2 and len(done.errors) == 1, done
    assert "clean_epochs=0 takes the model as given" in done.errors[0]
    assert not (tmp_path / "v").exists()


def test_a_given_model_that_does_not_fit_is_refused(run, plant, tiny, tmp_path):
    out = ("--out", tmp_path / "v")
    for argv, says in (
        (without_arch(plant), "name the network with --arch, or a file to start from"),
        ((*plant, "--classes", 3), "--classes is for --model"),
        ((*without_arch(plant), "--model", "nowhere.pt"), "nowhere.pt"),
        ((*without_arch(plant), "--model", tiny.clean), "clean.npz"),
        ((*without_arch(plant), "--model", tiny.model, "--data", "digits"), "classes"),
        ((*plant, "-p", "all_to_all=true", "-p", "target=2"), "give it or a target, not both"),
    ):
        done = run(*argv, *out)
        assert done.code == 2 and says in done.errors[0] and len(done.errors) == 1, done
    assert list(tmp_path.iterdir()) == []


def test_mistakes(run, plant, tiny, tmp_path):
    out = ("--out", tmp_path / "v")
    for more, says in (
        (("-p", "target=9"), "target 9 is not one of 3 classes"),
        (("--arch", "preact_resnet"), "preact_resnet18"),
        (("--mean", "0.5,0.5,0.5"), "--mean and --std belong together"),
        (("--data", "nowhere.npz"), "nowhere.npz"),
        (("-p", "size=0"), "size"),
    ):
        done = run(*plant, *more, *out)
        assert done.code == 2 and says in done.errors[0] and len(done.errors) == 1, done
    assert list(tmp_path.iterdir()) == []
