"""Every attack from the command line: chosen goals, sources and counts, or a clear no."""

from __future__ import annotations

import pytest

from unbackdoor.core import method

ALL = method.names("attack")
CLEAN_LABEL = [name for name in ALL if method.find("attack", name).clean_label]
DIRTY_LABEL = [name for name in ALL if name not in CLEAN_LABEL]
BY_IMAGE = ["multi_target", "semantic"]
"""What these stamp, or what it is for, depends on the image, not only on its class."""
CONTROLLED = ["blind", "input_aware", "lira"]
SHORT = {"steps": 1, "rounds": 20, "width": 2, "bits": 2, "clean_epochs": 1, "size": 2}
SHORT |= {"surrogate_epochs": 1, "warmup_epochs": 1}
SHORT |= {"mask_epochs": 1, "trigger_epochs": 1}


@pytest.fixture
def plant(run, tiny, tmp_path):
    def planted(name, *more):
        fields = method.find("attack", name).model_fields
        short = [("-p", f"{key}={value}") for key, value in SHORT.items() if key in fields]
        return run(
            *("attack", name, "--data", tiny.clean, "--test", tiny.test),
            *("--arch", "preact_resnet18", "--model-option", "width=2", "--device", "cpu"),
            *("-p", "epochs=1", "-p", "batch=10", "--min-asr", 0, "--json"),
            *("--out", tmp_path / "v", *more, *[part for pair in short for part in pair]),
        )

    return planted


@pytest.mark.parametrize("name", [name for name in DIRTY_LABEL if name not in BY_IMAGE])
def test_some_images_of_two_classes_go_each_to_the_next(name, plant):
    count = () if name in CONTROLLED else ("-p", "count=3")
    done = plant(name, "-p", "all_to_all=true", "-p", "sources=[0, 2]", *count)
    assert done.code == 0, done.err
    record = done.json
    # Nine test images, three of each class; of the sources none has its goal as its label.
    assert record["triggered"]["images"] == 6 == record["before"]["asr"]["total"]
    assert record["triggered"]["target"] == "all-to-all"
    assert record["asr_other_sources"]["total"] == 3
    if name in CONTROLLED:
        assert not record["poisoned"]["fixed"]
    else:
        assert record["poisoned"]["stamped"] == 3 == record["learned"]["relabelled"]["total"]
    seen = record["visibility"]["test"]
    assert seen["psnr"] > 5 and -1 <= seen["ssim"] <= 1 and 0 < seen["linf"] <= 1


@pytest.mark.parametrize("name", CLEAN_LABEL)
def test_a_single_image_of_any_target_class(name, plant):
    done = plant(name, "-p", "target=2", "-p", "count=1")
    assert done.code == 0, done.err
    assert done.json["poisoned"] == {"fixed": True, "clean": 19, "stamped": 1, "cover": 0}
    assert done.json["triggered"]["target"] == 2
    assert done.json["learned"].keys() == {"training_asr", "clean"}
    assert done.json["visibility"]["training"]["linf"] > 0


@pytest.mark.parametrize("name", [name for name in ALL if name not in BY_IMAGE])
def test_what_cannot_be_is_refused_in_one_line(name, plant, tmp_path):
    wrong = [(("target=3",), "target 3 is not one of 3 classes (0 to 2)")]
    if name in CLEAN_LABEL:
        only = "a clean-label attack only poisons images of its one target class"
        wrong += [(("all_to_all=true",), only), (("sources=[1]",), only)]
        wrong += [(("count=8",), f"{name} is to poison 8 images, but only 7 may be poisoned")]
    else:
        wrong += [(("sources=[0]",), "the true class of every test image is the target")]
        wrong += [(("sources=[1, 4]",), "source 4 is not one of 3 classes (0 to 2)")]
    if name in CONTROLLED:
        wrong += [(("count=2",), "only a rate can be chosen, got 2")]
    elif name in DIRTY_LABEL:
        wrong += [(("count=21",), f"{name} is to poison 21 images, but only 20 may be poisoned")]
    for given, says in wrong:
        done = plant(name, *[part for field in given for part in ("-p", field)])
        assert done.code == 2 and len(done.errors) == 1 and says in done.errors[0], done
    assert not (tmp_path / "v").exists()


@pytest.mark.parametrize("name", BY_IMAGE)
def test_what_goes_by_image_is_planted_or_refused_in_one_line(name, plant, tmp_path):
    bound = ("-p", "bound=0.0") if name == "semantic" else ()
    done = plant(name, "-p", "count=3", *bound)
    assert done.code == 0, done.err
    assert done.json["poisoned"]["stamped"] == 3
    # Several classes are led to, and the file that holds the triggered images tells of none.
    assert done.json["triggered"]["target"] == (0 if name == "semantic" else None)
    for given in (("-p", "target=3"), ("-p", "sources=[1, 4]"), ("-p", "count=21", *bound)):
        done = plant(name, "--force", *given)
        assert done.code == 2 and len(done.errors) == 1, done


SEEDS = [
    (name, key)
    for name in ALL
    for key, field in method.find("attack", name).model_fields.items()
    if (field.description or "").startswith("seed ")
]


@pytest.mark.parametrize(("name", "key"), SEEDS)
def test_a_seed_that_no_generator_takes_is_refused(name, key, plant):
    done = plant(name, "-p", f"{key}={10**23}")
    assert done.code == 2 and len(done.errors) == 1, done
    assert f"{name}: {key}: input should be less than or equal to 4294967295" in done.errors[0]
    assert method.build("attack", name, {key: 2**32 - 1})


def test_the_seeds_are_found():
    assert [
        *(("adaptive_blend", "pattern"), ("adaptive_patch", "pattern"), ("blended", "pattern")),
        *(("ssba", "secret"), ("wanet", "field")),
    ] == SEEDS
