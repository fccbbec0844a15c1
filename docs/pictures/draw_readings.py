"""Draws the picture of docs/results/fmp: `python docs/pictures/draw_readings.py` (a second).

From the result files of that folder: what each reading of FMP leaves of each backdoor in the
ResNet-8, beside random pruning of as many channels.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unbackdoor.core.measure import Rate

HERE = Path(__file__).parent
RESULTS = HERE.parent / "results" / "fmp"
VICTIMS = {"blended": "Blended", "lf": "LF", "ssba": "SSBA", "trojannn": "TrojanNN"}
READINGS: dict[str, dict[str, object]] = {
    "fine-tuning alone": {"name": "fine_tuning"},
    "one channel in 64": {"p": 64},
    "one in 16": {"p": 16},
    "one in 8": {"p": 8},
    "one in 8, share of one class": {"p": 8, "score": "one_class"},
    "one in 8, may grow back": {"p": 8, "hold": False},
    "outliers": {"share": "outliers"},
    "clusters": {"share": "cluster"},
    "one in 8, the oracle's": {"name": "oracle", "p": 8},
}
RANDOM: dict[str, dict[str, object]] = {
    "one channel in 64": {"name": "random_pruning", "p": 64},
    "one in 16": {"name": "random_pruning", "p": 16},
    "one in 8": {"name": "random_pruning", "p": 8},
}
USUAL: dict[str, object] = {
    "name": "fmp",
    "epochs": 10,
    "weight_decay": 5e-4,
    "share": "lowest",
    "score": "accuracy",
    "steps": 1,
    "sizes": 1,
    "projected": True,
    "batch_norms": False,
    "ranking_images": 32,
    "hold": True,
}
"""What a method has where it has it, if no reading says otherwise."""

LEFT, ROW, PANEL, GAP, TOP = 206, 24, 150, 34, 52
FMP, CHANCE, LINE = "#b3261e", "#5f6368", "#d0d3d6"


def main() -> None:
    """Draws."""
    (HERE / "readings.svg").write_text(picture(), encoding="utf-8")


def picture() -> str:
    """What the result files tell, as SVG."""
    victims = {path.stem: json.loads(path.read_text()) for path in RESULTS.glob("victims/*.json")}
    cells = [json.loads(path.read_text()) for path in RESULTS.glob("cells/*.json")]
    found = {
        name: [cell for cell in cells if _planted(victims[cell["victim"]]) == name]
        for name in VICTIMS
    }
    return drawn(found)


def _planted(victim: dict[str, Any]) -> str | None:
    """The attack of a ResNet-8, of another network None."""
    told = victim["victim"]
    small = told["architecture"]["name"] == "cifar_resnet"
    return told["attack"]["name"] if small and told["attack"] else None


def asr(cells: list[dict[str, Any]], wanted: dict[str, object]) -> Rate | None:
    """What the one of `cells` with these parameters left, if it was run."""
    wanted = USUAL | wanted
    for cell in cells:
        method = cell["cell"]["defense"]
        if method["name"] == wanted["name"] and all(
            name not in method or method[name] == value for name, value in wanted.items()
        ):
            return Rate(cell["after"]["asr"]["hits"], cell["after"]["asr"]["total"])
    return None


def drawn(found: dict[str, list[dict[str, Any]]]) -> str:
    """The whole picture: a panel for each victim, a row for each reading."""
    width = LEFT + len(VICTIMS) * (PANEL + GAP)
    height = TOP + len(READINGS) * ROW + 40
    parts = [f"<rect width='{width}' height='{height}' fill='#fff'/>"]
    for number, reading in enumerate(READINGS):
        y = TOP + (number + 0.5) * ROW
        parts.append(f"<text x='{LEFT - 14}' y='{y + 4}' text-anchor='end'>{reading}</text>")
    for column, (name, shown) in enumerate(VICTIMS.items()):
        parts += panel(LEFT + column * (PANEL + GAP), shown, found[name])
    legend = f"<circle cx='{LEFT}' cy='14' r='4.5' fill='{FMP}'/><text x='{LEFT + 10}' y='18'>"
    legend += "as the row says</text>"
    legend += f"<circle cx='{LEFT + 130}' cy='14' r='4' fill='#fff' stroke='{CHANCE}' "
    legend += f"stroke-width='2'/><text x='{LEFT + 140}' y='18'>as many channels of each layer "
    legend += "at random</text>"
    title = "<title>ASR that each reading of FMP leaves, by backdoor</title>"
    head = (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' "
        "font-family='system-ui,sans-serif' font-size='13'>"
    )
    return "\n".join([head, title, *parts, legend, "</svg>", ""])


def panel(left: float, shown: str, cells: list[dict[str, Any]]) -> Iterator[str]:
    """One victim's."""
    bottom = TOP + len(READINGS) * ROW
    yield f"<text x='{left}' y='{TOP - 8}' font-weight='600'>{shown}</text>"
    for percent in (0, 50, 100):
        x = left + percent / 100 * PANEL
        yield f"<line x1='{x}' x2='{x}' y1='{TOP}' y2='{bottom}' stroke='{LINE}'/>"
        yield f"<text x='{x}' y='{bottom + 18}' text-anchor='middle'>{percent}</text>"
    yield f"<text x='{left + PANEL / 2}' y='{bottom + 34}' text-anchor='middle'>ASR, %</text>"
    for number, (reading, wanted) in enumerate(READINGS.items()):
        y = TOP + (number + 0.5) * ROW
        for parameters, colour, filled in (
            (RANDOM.get(reading), CHANCE, "#fff"),
            (wanted, FMP, FMP),
        ):
            rate = parameters and asr(cells, parameters)
            if rate:
                low, high = (left + end * PANEL for end in rate.interval())
                x = left + rate.value * PANEL
                yield f"<line x1='{low:.1f}' x2='{high:.1f}' y1='{y}' y2='{y}' stroke='{colour}'/>"
                yield (
                    f"<circle cx='{x:.1f}' cy='{y}' r='4.5' fill='{filled}' stroke='{colour}' "
                    "stroke-width='2'/>"
                )


if __name__ == "__main__":
    main()
