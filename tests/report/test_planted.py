"""The table of the backdoored models: what was planted, and what was learned."""

from __future__ import annotations

from typing import Any

from unbackdoor.report import planted
from unbackdoor.report.results import Results, Row


def row(name: str, **told: Any) -> Row:
    common = {"data": "cifar10", "arch": "net", "defense": "none", "seed": 0, "status": "done"}
    return Row(**{"id": name, "rate": 0.1, "budget": 500, **common, **told})


def test_a_line_a_model_whatever_the_budgets() -> None:
    seen = {"acc": 0.9, "asr": 0.8, "ra": 0.1, "limit_asr": 0.05, "limit_ra": 0.75}
    rows = [
        row("a", attack="badnets", flags=("weak-victim",), **seen),
        row("a", attack="badnets", budget=5000, **seen),
        row("b", attack="sig|x", rate=None, acc=0.5),
        row("c", attack="none", rate=None, acc=0.95),
        row("d", attack="badnets", defense="clp"),
    ]
    learned = {"relabelled": {"hits": 3, "total": 4}, "clean": {"hits": 1, "total": 2}}
    half = {"training_asr": {"hits": 1, "total": 4}, "clean": {"hits": 1, "total": 1}}
    seen = {"visibility": {"psnr": 27.04, "ssim": 0.9999, "linf": 1.0}}
    victims = {"a": {"learned": learned, "measures": seen}, "b": {"learned": half}, "c": {}}
    text = planted.markdown(Results(rows, {}, victims, {}))
    head, _, *lines = text.splitlines()
    assert head.startswith("| data | network | attack | ACC | ASR | RA | clean model's ASR |")
    assert len(lines) == 2
    assert lines[0] == (
        "| cifar10 | net | badnets, rate 0.1, seed 0 | 90.0 | 80.0 | 10.0 | 5.0 | 75.0 | 75.0 | "
        "– | 50.0 | 27.0 | 1.000 | – |"
    )
    assert lines[1] == (
        r"| cifar10 | net | sig\|x, seed 0 | 50.0 | – | – | – | – | – | 25.0 | 100.0 | – | – | – |"
    )


def test_without_a_backdoor_there_is_no_table() -> None:
    clean = Results([row("c", attack="none")], {}, {"c": {}}, {})
    assert planted.markdown(clean) == ""


def test_it_is_written_beside_the_other_tables(drawn: Any) -> None:
    assert (drawn / "tables" / "victims.md").read_text().count("\n") > 2
