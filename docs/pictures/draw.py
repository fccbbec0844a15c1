"""Draws the pictures of docs/how-fmp-works.md: `python docs/pictures/draw.py` (half a minute).

A small network learns handwritten digits and a BadNets backdoor, as in `unbackdoor demo`. FMP
ranks its channels, with larger moves and more images than the demo, so that channels differ.
The pictures show what FMP saw; the geometry of the histogram and the strips is the report's.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw
from torch import Tensor

from unbackdoor import api
from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base import planting
from unbackdoor.cli.demo import ARCH, ATTACK, BATCH, BATCHES, WIDTH
from unbackdoor.core.images import Images, to_float, to_uint8
from unbackdoor.core.run import Run
from unbackdoor.defenses.fmp import FMP
from unbackdoor.network.layers import Layer, find_layers
from unbackdoor.ranking.ranking import Ranking
from unbackdoor.ranking.reverse import Reversal, at_layer
from unbackdoor.report.pictures import histograms, strips

HERE = Path(__file__).parent
SHOWN = "net.layer4.0.conv1"
RANKED = {"p": 4, "eps": 0.1, "alpha": 0.05, "step": 0.05, "ranking_images": 64}
DIGITS, SIDE, GAP, LEFT, TOP, ZOOM = 6, 96, 8, 170, 8, 5
INK, SOFT, BARS, CUT = "#1a1a1a", "#666666", "#8c9eff", "#c62828"
FONT = "font-family='system-ui,sans-serif' font-size='13'"


def main() -> None:
    """Plants, ranks and draws."""
    run = Run(seed=0)
    train, test = (api.load_images(f"digits:{part}", channels=1) for part in ("train", "test"))
    theirs, clean = train[: 3 * BATCHES * BATCH].split(2 * BATCHES * BATCH, run.rng("two thirds"))
    attack, defense = BadNets(**ATTACK), FMP(**RANKED)
    network = planting.Network(ARCH, {"width": WIDTH, "in_channels": 1})
    model = attack.plant(network.build(theirs, run), theirs, run).model.eval()

    chosen = clean.sample(defense.ranking_images, run.rng("ranking images"))
    layers = find_layers(model, to_float(chosen.pixels[:2]))
    rankings = defense.rankings(model, layers, chosen, run)
    layer = next(layer for layer in layers if layer.name == SHOWN)
    ranking = rankings[layer.name]

    digits = torch.cat([test[test.labels == number].pixels[:1] for number in range(1, 1 + DIGITS)])
    order = ranking.score.argsort()
    rows = {"clean": digits, "with the trigger": to_uint8(attack.stamp(to_float(digits)))}
    for word, channel in (("worst", int(order[0])), ("best", int(order[-1]))):
        moved = made(model, layer, digits, channel, defense)
        rows[f"channel {channel}, the {word}"] = moved
        rows[f"its change, x {ZOOM}" + " " * len(rows)] = moved.int() - digits.int()
    contact_sheet(rows, digits, model).save(HERE / "reversed.png", optimize=True)
    told = [record(layer, rankings[layer.name], defense.p) for layer in layers]
    (HERE / "accuracy.svg").write_text(histogram(told, SHOWN), encoding="utf-8")
    dots = trigger_effect(model, layer, attack, test)
    found = [
        agreement(told[at], trigger_effect(model, layers[at], attack, test))
        for at in range(len(layers))
    ]
    lines = (f"{one.name}: {share:.2f}\n" for one, share in zip(layers, found, strict=True))
    sys.stdout.writelines(["pruned, of the channels that the trigger moves furthest:\n", *lines])
    (HERE / "trigger.svg").write_text(scatter(told, SHOWN, dots), encoding="utf-8")
    (HERE / "pruned.svg").write_text(pruned(told), encoding="utf-8")


def made(
    model: torch.nn.Module, layer: Layer, digits: Tensor, channel: int, defense: FMP
) -> Tensor:
    """The images, uint8, that move the map of `channel` most."""
    x = to_float(digits)
    rng = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, x.shape, generator=rng).to(x) * 2 - 1
    (nudge,) = defense.nudges()
    reversal = Reversal(model, model, layer, x, signs, nudge, Run(seed=0, precision="fp32"))
    return to_uint8(reversal.images(torch.tensor([channel]))[0].detach())


def trigger_effect(
    model: torch.nn.Module, layer: Layer, attack: BadNets, test: Images
) -> list[float]:
    """How far the trigger moves each channel's map: the root of the mean square."""
    x = to_float(test.pixels)
    with torch.no_grad():
        maps = [at_layer(model, layer, images)[1] for images in (x, attack.stamp(x))]
    found: list[float] = (maps[1] - maps[0]).square().mean((0, 2, 3)).sqrt().tolist()
    return found


def agreement(told: dict[str, Any], effects: list[float]) -> float:
    """The share of the channels that the trigger moves furthest among the pruned ones."""
    count = len(told["silenced"])
    furthest = torch.tensor(effects).argsort(descending=True)[:count].tolist()
    return len({*furthest} & {*told["silenced"]}) / count


def contact_sheet(rows: dict[str, Tensor], clean: Tensor, model: torch.nn.Module) -> Image.Image:
    """A row of digits each, what the model says under them; signed rows are changes."""
    heights = [SIDE + GAP + (16 if pixels.dtype == torch.uint8 else 0) for pixels in rows.values()]
    page = Image.new("L", (LEFT + DIGITS * (SIDE + GAP), TOP + sum(heights)), 255)
    pen, top = ImageDraw.Draw(page), TOP
    for height, (title, pixels) in zip(heights, rows.items(), strict=True):
        pen.text((GAP, top + SIDE // 2 - 8), title.strip(), 26, font_size=14)
        change = pixels.dtype != torch.uint8
        shown = (pixels * ZOOM + 128).clamp(0, 255).to(torch.uint8) if change else pixels
        for column in range(DIGITS):
            left = LEFT + column * (SIDE + GAP)
            tile = Image.fromarray(shown[column, 0].numpy()).resize((SIDE, SIDE), 0)
            page.paste(tile, (left, top))
            if not change:
                said = int(model(to_float(pixels[column : column + 1])).argmax(1))
                told = f"says {said}" if said == column + 1 else f"SAYS {said}"
                pen.text((left, top + SIDE), told, 26, font_size=13)
        top += height
    return page


def record(layer: Layer, ranking: Ranking, p: int) -> dict[str, Any]:
    """A layer as in the record of a repair."""
    silenced = ranking.suspects(layer.channels // p).nonzero().flatten().tolist()
    scores = ranking.score.tolist()
    return {
        "name": layer.name,
        "channels": layer.channels,
        "silenced": silenced,
        "scores": scores,
    }


def svg(width: int, height: int, body: str, title: str) -> str:
    """A picture with a white ground, for pages that are dark."""
    return (
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {width} {height}' {FONT}>"
        f"<title>{title}</title><rect width='{width}' height='{height}' rx='6' fill='#fff'/>"
        f"{body}</svg>\n"
    )


def histogram(layers: list[dict[str, Any]], name: str) -> str:
    """The accuracies of one layer's channels; the pruned ones as ticks."""
    (shown,) = histograms([layer for layer in layers if layer["name"] == name], log=False)
    scale = f"translate(20 14) scale({560 / shown.bins:.3f} 120)"
    ticks = f"translate(20 138) scale({560 / shown.bins:.3f} 14)"
    body = (
        f"<path transform='{scale}' d='{shown.bars}' fill='{BARS}'/>"
        f"<path transform='{ticks}' d='{shown.ticks}' stroke='{CUT}' stroke-width='2' "
        f"vector-effect='non-scaling-stroke'/>"
        f"<path d='M20 134h560' stroke='{SOFT}'/>"
        f"<text x='20' y='172' fill='{SOFT}'>{shown.low}</text>"
        f"<text x='580' y='172' fill='{SOFT}' text-anchor='end'>{shown.high}</text>"
        f"<text x='300' y='172' fill='{INK}' text-anchor='middle'>"
        f"accuracy on the images made for a channel</text>"
    )
    return svg(600, 184, body, f"Accuracies of the channels of {name}; pruned ones in red")


def scatter(layers: list[dict[str, Any]], name: str, effects: list[float]) -> str:
    """A dot for each channel of a layer: how far the trigger moves it, its accuracy."""
    (shown,) = (layer for layer in layers if layer["name"] == name)
    scores, furthest = shown["scores"], max(effects)
    low, high = min(scores), max(scores)
    body = f"<path d='M60 14v220h520' fill='none' stroke='{SOFT}'/>"
    for channel, (score, effect) in enumerate(zip(scores, effects, strict=True)):
        x = 64 + 505 * effect / furthest
        y = 224 - 200 * (score - low) / (high - low)
        color = CUT if channel in shown["silenced"] else BARS
        body += f"<circle cx='{x:.1f}' cy='{y:.1f}' r='5' fill='{color}'/>"
    body += (
        f"<text x='54' y='28' fill='{SOFT}' text-anchor='end'>{100 * high:.0f} %</text>"
        f"<text x='54' y='228' fill='{SOFT}' text-anchor='end'>{100 * low:.0f} %</text>"
        f"<text x='320' y='256' fill='{INK}' text-anchor='middle'>"
        f"how far the trigger moves the channel</text>"
        f"<text transform='translate(22 124) rotate(-90)' fill='{INK}' text-anchor='middle'>"
        f"accuracy</text>"
    )
    return svg(600, 270, body, f"The channels of {name}; pruned ones in red")


def pruned(layers: list[dict[str, Any]]) -> str:
    """A bar for each layer, its pruned channels red."""
    body = ""
    for place, strip in enumerate(strips(layers)):
        top = 12 + 18 * place
        scale = f"translate(170 {top}) scale({410 / strip.channels:.3f} 12)"
        body += (
            f"<text x='160' y='{top + 11}' fill='{INK}' text-anchor='end'>"
            f"{strip.name.removeprefix('net.')}</text>"
            f"<rect x='170' y='{top}' width='410' height='12' fill='{BARS}'/>"
            f"<path transform='{scale}' d='{strip.path}' fill='{CUT}'/>"
        )
    return svg(600, 18 * len(layers) + 18, body, "The channels of each layer; pruned ones in red")


if __name__ == "__main__":
    main()
