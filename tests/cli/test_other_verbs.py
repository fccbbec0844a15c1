from __future__ import annotations

import json
from dataclasses import replace

from unbackdoor.checkpoints import checkpoint
from unbackdoor.core import method


def test_list_names_what_is_there(run):
    found = run("list", "--json").json
    assert found["attacks"] == list(method.names("attack"))
    assert found["defenses"] == list(method.names("defense"))
    assert "preact_resnet18" in found["architectures"] and "digits" in found["sources"]
    assert "fine_tuning" in run("list").out


def test_list_filters_defenses_by_what_they_need(run):
    every = run("list", "--needs", "all", "--json").json["defenses"]
    assert [one["name"] for one in every] == list(method.names("defense"))
    for one in every:
        assert one["needs"] == sorted(method.find("defense", one["name"]).needs)
    passes = {one["name"]: one["passes"] for one in every}
    assert passes["clp"] == 0 and passes["fine_tuning"] == 100 and passes["ft_sam"] == 200
    found = run("list", "--needs", "training,no-labels", "--json").json["defenses"]
    assert {one["name"] for one in found} >= {"ims", "self_distillation"}
    assert all("training" in one["needs"] and "labels" not in one["needs"] for one in found)
    few = run("list", "--needs", "no-batch_norms,passes<=50", "--json").json["defenses"]
    assert {one["name"] for one in few} >= {"fst"} and all(one["passes"] <= 50 for one in few)
    assert passes["pam"] > 4 * passes["neural_cleanse"] > 0 and passes["fmp"] is None
    assert "passes<=50" in run("list", "--needs", "minutes").err
    shown = run("list", "--needs", "no-training").out
    assert "clp" in shown and "fine_tuning" not in shown and "true labels" in shown


def test_list_refuses_a_need_that_is_none(run):
    told = run("list", "--needs", "lables")
    assert told.code == 2 and "need" in told.err and "labels" in told.err
    assert len(told.err.strip().splitlines()) == 1


def test_describe_says_what_a_defense_needs(run):
    assert "true labels of the clean images" in run("describe", "fine_tuning").out
    assert run("describe", "clp", "--json").json["needs"] == ["batch_norms", "norms"]
    assert "needs" not in run("describe", "badnets", "--json").json


def test_describe_tells_every_field_of_every_method(run):
    for role in method.ROLES:
        for name in method.names(role):
            told = run("describe", name, "--json").json
            cls = method.find(role, name)
            assert told["role"] == role and told["paper"] == cls.paper
            assert told["parameters"].keys() == cls.model_fields.keys()
            for key, field in cls.model_fields.items():
                parameter = told["parameters"][key]
                assert parameter["default"] == json.loads(json.dumps(field.default))
                assert parameter["description"] == field.description
    bounds = run("describe", "badnets", "--json").json["parameters"]["rate"]["bounds"]
    assert bounds == {">": 0, "<=": 1}
    assert "ranking_images" in run("describe", "fmp").out


def test_describe_breaks_lines_where_the_terminal_ends():
    from unbackdoor.cli.describe import _flowing

    told = "One\nline.\n\n* an entry\n  of two lines\n* another\n\nThe end."
    assert _flowing(told) == "One line.\n\n* an entry of two lines\n* another\n\nThe end."


def test_describe_tells_where_an_attack_departs_from_its_paper(run):
    for name in method.names("attack"):
        text = method.find("attack", name).__doc__
        told = run("describe", name, "--json").json["details"]
        assert ("Departure" in told) == ("Departure" in text) and ">>>" not in told
    assert "Departure: the paper also ascends" in " ".join(
        run("describe", "label_consistent").out.split()
    )


def test_convert_keeps_the_weights_and_says_what_they_are(run, tiny, tmp_path):
    import torch

    model = checkpoint.load(tiny.model)
    bare = tmp_path / "bare.pt"
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.net.state_dict().items()}}, bare)
    about = ("--arch", "preact_resnet18", "--classes", "ant,bee,cat")
    scale = ("--mean", "0.5,0.5,0.5", "--std", "0.2,0.2,0.2")
    out = tmp_path / "out.safetensors"
    done = run("convert", bare, out, *about, *scale, "--json")
    assert done.code == 0 and done.json["output"]["file"] == "out.safetensors"
    again = checkpoint.load(out)
    assert again.spec == replace(model.spec, size=None)  # which a bare file does not say
    assert all((a == b).all() for a, b in zip(again.parameters(), model.parameters(), strict=True))
    assert run("convert", bare, out, *about, *scale).code == 2
    assert run("convert", bare, out, *about, *scale, "--force").code == 0
    assert run("convert", bare, tmp_path / "out.pt", *about, *scale).code == 2


def test_evaluate_bounds(run, tiny):
    stamped = ("--triggered", tiny.triggered, "--target", 0)
    scores = run("evaluate", tiny.model, "--test", tiny.test, *stamped, "--json").json["before"]
    for bound, rate, missed in (
        ("--max-asr", scores["asr"]["value"], False),
        ("--min-acc", scores["acc"]["value"], False),
        ("--min-acc", min(1, scores["acc"]["value"] + 0.01), True),
    ):
        done = run("evaluate", tiny.model, "--test", tiny.test, *stamped, bound, rate)
        assert done.code == (1 if missed else 0) and ("missed: " in done.err) == missed
    only = run("evaluate", tiny.model, *stamped, "--json").json["before"]
    assert only["acc"] is None and only["asr"] == scores["asr"]


def test_help_names_every_verb(run):
    for verb in ("demo", "repair", "evaluate", "attack", "list", "describe", "convert"):
        assert run(verb, "--help").code == 0
        assert verb in run("--help").out
