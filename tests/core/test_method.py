"""Methods by name: what is declared, and how a wrong word is answered."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from unbackdoor.core.errors import ParameterError, UnknownNameError
from unbackdoor.core.method import ROLES, Method, build, find, names
from unbackdoor.defenses.fmp import FMP


@pytest.mark.parametrize("role", ROLES)
def test_every_file_of_a_role_declares_the_method_of_its_name(role):
    assert names(role)
    for name in names(role):
        method = find(role, name)
        assert method.name() == name
        assert method.paper and method.limits and method.__doc__
        assert all(field.description for field in method.model_fields.values())


def test_build_reads_text_as_json_where_it_is_json():
    built = build("defense", "fmp", {"p": "32", "eps": "0.1", "hold": "false", "lr": 0.5})
    assert isinstance(built, FMP)
    assert (built.p, built.eps, built.hold, built.lr) == (32, 0.1, False, 0.5)
    assert build("defense", "fmp") == FMP()


@pytest.mark.parametrize(
    ("text", "betas"),
    [("0,0,5000", (0, 0, 5000)), ("[1, 2.5]", (1, 2.5)), ("7", (7,)), (" 1 , 2 ", (1, 2))],
)
def test_a_list_may_be_text_with_commas(text, betas):
    assert build("defense", "nad", {"betas": text}).betas == betas


def test_words_of_a_list_need_no_quotes_and_null_is_no_list():
    assert build("scanner", "targeted", {"changes": "added,warp"}).changes == ("added", "warp")
    assert build("attack", "badnets", {"sources": "null"}).sources is None
    with pytest.raises(ParameterError, match="'added', 'patch' or 'warp', got 'pitch'"):
        build("scanner", "targeted", {"changes": "pitch"})


def test_images_that_must_not_be_mirrored_are_not_unless_that_is_said():
    told = [build("defense", "fmp", given, mirrored=False).flip for given in ({}, {"flip": True})]
    assert told == [False, True] and build("defense", "fmp").flip
    assert "flip" not in type(build("defense", "clp", mirrored=False)).model_fields


def message(error: pytest.ExceptionInfo[Exception]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_an_unknown_method_gets_the_nearest_name():
    with pytest.raises(UnknownNameError) as error:
        build("defense", "fmpp")
    assert message(error) == "unknown defense 'fmpp'; did you mean 'fmp'?"
    with pytest.raises(UnknownNameError) as error:
        find("attack", "zzzz")
    assert "unknown attack 'zzzz'; known: " in message(error)
    assert all(name in message(error) for name in names("attack"))


def test_an_unknown_parameter_gets_the_nearest_name():
    with pytest.raises(UnknownNameError) as error:
        build("defense", "fmp", {"epoch": 3})
    assert message(error) == "unknown parameter of fmp 'epoch'; did you mean 'epochs'?"


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"p": 0}, ["fmp: p:", "greater than or equal to 1", "got 0"]),
        ({"eps": "far"}, ["fmp: eps:", "number", "got 'far'"]),
        ({"p": 0, "eps": 2}, ["fmp: p:", "; fmp: eps:"]),
    ],
)
def test_a_value_out_of_bounds_is_named_in_one_line(given, words):
    with pytest.raises(ParameterError) as error:
        build("defense", "fmp", given)
    assert all(word in message(error) for word in words), message(error)


def test_fields_that_do_not_fit_together_are_told_without_all_the_others():
    with pytest.raises(ParameterError, match=r"^fmp: alpha \(0.02\) must be below eps[^{]*$"):
        build("defense", "fmp", {"eps": 0.01})


def test_a_method_cannot_change_and_tells_all_of_itself():
    method = FMP(p=8)
    with pytest.raises(ValidationError, match="frozen"):
        method.p = 9
    with pytest.raises(ValidationError):
        FMP(q=1)
    declared = method.declaration()
    assert declared["name"] == "fmp" and declared["p"] == 8
    assert set(declared) == {"name", *FMP.model_fields}
    assert issubclass(FMP, Method) and build("defense", declared.pop("name"), declared) == method
