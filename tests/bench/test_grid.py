from __future__ import annotations

import json
from itertools import pairwise, product

import pytest
from PIL import Image

from unbackdoor.bench import grid
from unbackdoor.core import method
from unbackdoor.core.errors import CheckpointError, ParameterError, UnknownNameError

SMALL = """
data = ["digits"]
architectures = [{name = "preact_resnet18", width = [2, 4]}]
attacks = ["badnets", {name = "blended", rate = 0.3}]
rates = [0.1, 0.2]
defenses = [{name = "fmp", p = [8, 16]}, "clp"]
budgets = [0.05, 20]
seeds = [0, 1, 2]
training = {epochs = 3}
tuning = {epochs = 7}
"""


def read(tmp_path, text):
    path = tmp_path / "grid.toml"
    path.write_text(text)
    return grid.read(path)


@pytest.fixture
def cells(tmp_path):
    return grid.cells(read(tmp_path, SMALL))


def test_every_list_multiplies_and_clean_models_are_there(cells):
    # widths x (none, badnets at two rates, blended at its own) x defenses x budgets x seeds
    assert len(cells) == 2 * (1 + 2 + 1) * (2 + 1) * 2 * 3
    assert len({cell.victim.id for cell in cells}) == 2 * 4 * 3
    attacks = [cell.victim.attack for cell in cells]
    rates = {(found["name"], found["rate"]) for found in attacks if found}
    assert rates == {("badnets", 0.1), ("badnets", 0.2), ("blended", 0.3)}
    clean = [cell.victim for cell in cells if cell.victim.attack is None]
    assert len(clean) == 2 * 3 * 2 * 3 and all(victim.training["epochs"] == 3 for victim in clean)


def test_shared_settings_reach_those_that_take_them(cells):
    by_name = {cell.defense["name"]: cell.defense for cell in cells}
    assert by_name["fmp"]["epochs"] == 7 and "epochs" not in by_name["clp"]
    assert all(cell.victim.attack["epochs"] == 3 for cell in cells if cell.victim.attack)


LEARNING = """
data = ["digits"]
architectures = ["preact_resnet18"]
seeds = [0]
defenses = [
  "fine_tuning", "fine_pruning", "ft_sam", "fmp", "self_distillation", "uat", "nad", "fst", "npd",
  "mcr", "neural_cleanse", "anp", "rnp", "sau", "unit", "i_bau", "clp", {name = "npd", epochs = 3},
  "bti_dbf", "pam", "nft", "ban", "ims", "bnp",
]
tuning = {epochs = 77, lr = 0.5, flip = false}
"""
PLAIN = {"fine_tuning", "fine_pruning", "ft_sam", "fmp"}
UNMIRRORED = {"uat", "i_bau", "clp", "bnp", "npd", "ims", "sau"}
"""What never augments its images."""


def test_tuning_is_for_plain_fine_tuning_and_flip_for_all_that_learn(tmp_path):
    found = [cell.defense for cell in grid.cells(read(tmp_path, LEARNING))]
    assert {defense["name"] for defense in found} == set(method.names("defense"))
    for defense in found:
        name = defense["name"]
        assert (defense.get("epochs") == 77) == (name in PLAIN), name
        assert (defense.get("lr") == 0.5) == (name in PLAIN), name
        assert defense.get("flip", "none") == ("none" if name in UNMIRRORED else False), name
    assert [d["epochs"] for d in found if d["name"] == "npd"] == [50, 3]
    assert [d["epochs"] for d in found if d["name"] == "uat"] == [6]


def test_a_data_set_has_its_own_parameters_of_single_defenses(tmp_path):
    own = "defenses = {ft_sam = {rho = 8.0, epochs = 5}}"
    text = LEARNING.replace('["digits"]', '["cifar10", {name = "gtsrb", ' + own + "}]")
    for cell in grid.cells(read(tmp_path, text)):
        if cell.defense["name"] == "ft_sam":
            there = cell.victim.data["name"] == "gtsrb"
            assert cell.defense["rho"] == (8.0 if there else 2.0)
            assert cell.defense["epochs"] == (5 if there else 77)
        assert "defenses" not in cell.victim.data
    for broken in ("{ft_sum = {rho = 8.0}}", "{ft_sam = {rho = -1.0}}", "{ft_sam = {roh = 1.0}}"):
        with pytest.raises((ParameterError, UnknownNameError)):
            grid.cells(read(tmp_path, text.replace("{ft_sam = {rho = 8.0, epochs = 5}}", broken)))


def test_a_whole_seed_comes_before_the_next_and_victims_stay_together(cells):
    assert [cell.victim.seed for cell in cells] == sorted(cell.victim.seed for cell in cells)
    order = [cell.victim.id for cell in cells]
    assert len([1 for a, b in pairwise(order) if a != b]) + 1 == len(set(order))


def test_the_identity_is_the_whole_declaration_and_nothing_else(tmp_path, cells):
    assert len({cell.id for cell in cells}) == len(cells)
    # The order, defaults that are written out and the bound of weakness change nothing.
    again = SMALL.replace("[0.1, 0.2]", "[0.2, 0.1]").replace('"clp"', '{name = "clp", u = 3.0}')
    same = grid.cells(read(tmp_path, again + "min_asr = 0.5"))
    assert {cell.id for cell in same} == {cell.id for cell in cells}
    other = grid.cells(read(tmp_path, SMALL.replace('"clp"', '{name = "clp", u = 3.5}')))
    assert sum(cell.id not in {found.id for found in cells} for cell in other) == len(cells) // 3
    assert json.loads(json.dumps(cells[0].declaration())) == cells[0].declaration()


def test_a_format_of_results_is_part_of_the_identity(monkeypatch, cells):
    from unbackdoor.bench import store

    before = store.identity({"a": 1})
    monkeypatch.setattr(store, "FORMAT", store.FORMAT + 1)
    assert store.identity({"a": 1}) != before


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds =", "seed ="), "key of grid.toml 'seed'; did you mean 'seeds'"),
        (('"badnets"', '"badnet"'), "attack 'badnet'; did you mean 'badnets'"),
        (('"clp"', '"clq"'), "defense 'clq'; did you mean 'clp'"),
        (("p = [8, 16]", "pp = 8"), "parameter of fmp 'pp'; did you mean 'p'"),
        (('"digits"', '"digit"'), "data set 'digit'; did you mean 'digits'"),
        (("preact_resnet18", "preact_resnet"), "did you mean 'preact_resnet18'"),
        (("width =", "widths ="), "option of preact_resnet18 'widths'; did you mean 'width'"),
        (("{epochs = 3}", "{epoch = 3}"), "key of training 'epoch'; did you mean 'epochs'"),
        (("{epochs = 7}", "{epoch = 7}"), "key of tuning 'epoch'; did you mean 'epochs'"),
    ],
)
def test_what_is_unknown_names_the_nearest(tmp_path, change, says):
    with pytest.raises(UnknownNameError) as found:
        grid.cells(read(tmp_path, SMALL.replace(*change)))
    assert says in str(found.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("seeds = [0, 1, 2]", "seeds = []"), "seeds"),
        (("p = [8, 16]", "p = []"), "empty list"),
        (("p = [8, 16]", "p = 0"), "greater than or equal to 1"),
        (("0.05, 20", "0.05, -1"), "budget"),
        (("0.05, 20", "0.05, 1.5"), "budget"),
        (("0.05, 20", "0.05, inf"), "budget"),
        (("0.05, 20", "0.05, nan"), "budget"),
        (('"digits"', "3"), "names or tables"),
        (("seeds", "= seeds"), "no TOML"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path, change, says):
    with pytest.raises(ParameterError, match=says):
        grid.cells(read(tmp_path, SMALL.replace(*change)))
    with pytest.raises(ParameterError, match="cannot read"):
        grid.read(tmp_path / "nowhere.toml")


def test_only_some(cells):
    assert {cell.defense["name"] for cell in grid.chosen(cells, "clp")} == {"clp"}
    some = grid.chosen(cells, "badnets/0.2*clp*seed1")
    assert {cell.title for cell in some} == {
        f"digits/preact_resnet18 width={width}/badnets/0.2/clp/{budget}/seed1"
        for budget, width in product(("0.05", "20"), (2, 4))
    }
    (own,) = {cell.method for cell in grid.chosen(cells, "fmp p=8/")}
    assert own == "fmp p=8"
    assert grid.chosen(cells, cells[5].id) == [cells[5]] and grid.chosen(cells, None) == cells
    with pytest.raises(ParameterError, match=r"none of 144 cells matches 'nothing': digits/"):
        grid.chosen(cells, "nothing")


def test_victims_that_differ_have_titles_that_differ(tmp_path):
    text = SMALL.replace('"badnets"', '{name = "badnets", count = [1, 50], size = 2}').replace(
        '["digits"]', '[{name = "digits", reserve = [0.2, 0.3]}]'
    )
    victims = {cell.victim.id: cell.victim for cell in grid.cells(read(tmp_path, text))}.values()
    titles = {(victim.title, victim.seed) for victim in victims}
    assert len(titles) == len(victims) == 2 * 2 * (1 + 2 + 1) * 3
    assert ("digits reserve=0.2/preact_resnet18 width=4/badnets count=50", 0) in titles
    (one,) = grid.cells(
        read(
            tmp_path,
            'data=["digits"]\narchitectures=["preact_resnet18"]\ndefenses=["clp"]\nseeds=[3]',
        )
    )
    assert one.title == "digits/preact_resnet18/none/clp/0.05/seed3"


def test_a_data_set_has_its_own_settings(tmp_path):
    text = SMALL.replace(
        '["digits"]',
        '["digits", {name = "gtsrb", training = {epochs = 1}, tuning = {flip = false}}]',
    )
    for cell in grid.cells(read(tmp_path, text)):
        own = cell.victim.data["name"] == "gtsrb"
        settings = cell.victim.attack or cell.victim.training
        assert settings["epochs"] == (1 if own else 3)


def flips(tmp_path, *entries, more=""):
    """By the name of each data set, whether victims and defenses mirror its images."""
    sources = 'train = "cifar10:train", test = "cifar10:test"'
    text = f"data = [{', '.join(entries)}]\n".replace("SRC", sources)
    text += SMALL.partition("\n")[2].partition("\n")[2].partition("training =")[0] + more
    found = {}
    for cell in grid.cells(read(tmp_path, text)):
        settings = cell.victim.attack or cell.victim.training
        told = {settings["flip"], cell.defense.get("flip", settings["flip"])}
        found.setdefault(cell.victim.data["name"], set()).update(told)
    return found


def test_a_data_set_says_once_whether_it_is_mirrored(tmp_path):
    entries = ('"cifar10"', '"gtsrb"', '{name = "signs", SRC, flip = false}')
    assert flips(tmp_path, *entries) == {"cifar10": {True}, "gtsrb": {False}, "signs": {False}}
    assert flips(tmp_path, '{name = "gtsrb", flip = true}') == {"gtsrb": {True}}
    old = '{name = "signs", SRC, training = {flip = false}, tuning = {flip = false}}'
    assert flips(tmp_path, old) == {"signs": {False}}
    everywhere = "training = {flip = false}\ntuning = {flip = false}\n"
    told = flips(tmp_path, '"cifar10"', '{name = "signs", SRC, flip = true}', more=everywhere)
    assert told == {"cifar10": {False}, "signs": {True}}


def test_whether_it_is_mirrored_is_told_by_the_methods_alone(tmp_path):
    whole = '{name = "signs", train = "a", test = "b"'
    new = read(tmp_path, SMALL.replace('"digits"', whole + ", flip = false}"))
    old = whole + ", training = {flip = false}, tuning = {flip = false}}"
    same = read(tmp_path, SMALL.replace('"digits"', old))
    assert [cell.id for cell in grid.cells(new)] == [cell.id for cell in grid.cells(same)]


def test_a_victim_is_known_by_the_files_that_its_attack_names(tiny, tmp_path):
    picture = tmp_path / "patch.png"
    attack = {"name": "badnets", "patch": str(picture)}
    found = []
    for colour in (0, 0, 255):
        Image.new("L", (2, 2), colour).save(picture)
        *_, victim = [cell.victim for cell in grid.cells(tiny(attacks=[attack]))]
        found.append(victim)
    assert found[0].id == found[1].id != found[2].id
    assert found[0].declaration()["contents"].keys() == {"patch"}
    *_, plain = [cell.victim for cell in grid.cells(tiny())]
    assert "contents" not in plain.declaration()
    picture.unlink()
    with pytest.raises(CheckpointError, match=r"no such file: .*patch\.png"):
        grid.cells(tiny(attacks=[attack]))
