"""docs/ranking.md and docs/ranking.json, from what channel_ranking.py measured."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from channel_ranking import EPOCHS, JUDGED, JUDGES, SHARES, Row, job
from ledger import asked, keep, merged
from victims import ROOT

HEADING = f"""# Which ranking finds the backdoor's channels?

    make channel_ranking

One channel in p, the most suspect by a ranking, is pruned from every layer of a victim. Then follow
{EPOCHS} epochs of plain fine-tuning, in which these channels stay at zero. ACC, ASR and RA in
percent, of {JUDGED} test images each.

* *oracle*: how far the trigger moves a channel (trigger-activated change, TAC). It needs the
  trigger, and shows what pruning could reach.
* *unused capacity*: how much larger a channel's output could be than clean images make it.
* *fmp*: as in the paper, the accuracy on images that move the channel most (32 images).
* *random*: chance.

*Coverage* is the share of the channels that the trigger moves most (the oracle's top N/64 of every
layer) that are pruned. It says whether a ranking and the oracle agree, not whether the backdoor is
gone: a trigger passes from layer to layer, so that a cut in one layer may be enough. A layer of
fewer than p channels loses none.

Fine-tuning can bring the backdoor back even after the oracle's cut at p = 64: to find the channels
is not the whole repair.

"""


TOLD = ROOT / "docs" / "ranking.json"
KINDS = ("oracle", "unused capacity", "fmp", "random")


def jobs() -> dict[tuple[str, str, int | None], str]:
    """All that is asked for, and what answers it."""
    cuts = [("none", None), *((kind, p) for kind in KINDS for p in SHARES)]
    return {(name, kind, p): asked(name, job()) for name in JUDGES for kind, p in cuts}


def told_before() -> set[str]:
    """The victims all of whose rows still hold."""
    held = {(row["victim"], row["ranking"], row["p"]) for row in merged(TOLD, (), jobs())}
    return set(JUDGES) - {name for name, *rest in jobs() if (name, *rest) not in held}


def write(fresh: Sequence[Row]) -> None:
    """Writes both files."""
    rows = merged(TOLD, fresh, jobs())
    keep(TOLD, rows)
    victims = list(dict.fromkeys(row["victim"] for row in rows))
    page = HEADING + averages(rows) + "".join(table(name, rows) for name in victims)
    (ROOT / "docs" / "ranking.md").write_text(page, encoding="utf-8")


def averages(rows: Sequence[Row]) -> str:
    """The means over the victims that were measured."""
    head = (
        "ranking",
        "p",
        "coverage",
        "ACC lost",
        "ASR",
        "below 10",
        "ACC lost",
        "ASR",
        "below 10",
    )
    missing = [name for name in JUDGES if name not in {row["victim"] for row in rows}]
    text = "## Means over victims\n\nPruned alone first, then fine-tuned; *below 10* is how many"
    text += " victims have an ASR below 10 %."
    text += f" Not measured yet: {', '.join(missing)}." if missing else ""
    text += f"\n\n{line(head)}{line(['---'] * len(head))}"
    before = {row["victim"]: row["pruned"]["acc"] for row in rows if row["ranking"] == "none"}
    for kind, p in dict.fromkeys((row["ranking"], row["p"]) for row in rows):
        some = [row for row in rows if (row["ranking"], row["p"]) == (kind, p)]
        cells = [kind, told_share(p), covered(some)]
        for stage in ("pruned", "tuned"):
            cells.append(f"{fmean(before[row['victim']] - row[stage]['acc'] for row in some):.1f}")
            cells.append(f"{fmean(row[stage]['asr'] for row in some):.1f}")
            cells.append(f"{sum(row[stage]['asr'] < 10 for row in some)} of {len(some)}")
        text += line(cells)
    return text


def table(name: str, rows: Sequence[Row]) -> str:
    """One victim's table."""
    head = ("ranking", "p", "coverage", "pruned: ACC / ASR / RA", "fine-tuned")
    text = f"\n## {name}\n\n{line(head)}{line(['---'] * len(head))}"
    for row in rows:
        if row["victim"] == name:
            stages = [
                " / ".join(f"{v:.1f}" for v in row[key].values()) for key in ("pruned", "tuned")
            ]
            text += line([row["ranking"], told_share(row["p"]), covered([row]), *stages])
    return text


def told_share(p: int | None) -> str:
    """`p`, or a dash where nothing is pruned."""
    return "–" if p is None else str(p)


def covered(rows: Sequence[Row]) -> str:
    """The mean coverage in percent."""
    known = [row["coverage"] for row in rows if row["coverage"] is not None]
    return f"{100 * fmean(known):.0f}" if known else "–"


def line(cells: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |\n"
