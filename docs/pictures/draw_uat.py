"""Draws the picture of docs/uat.md: `python docs/pictures/draw_uat.py` (half a minute).

A small network learns handwritten digits and a BadNets backdoor, as in `unbackdoor demo`. The
picture shows what the searches of `uat` find in it before the repair, and the repaired model's
answers to the same images. Run it with two threads: other numbers train another victim.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from draw import DIGITS, LEFT, contact_sheet
from PIL import Image, ImageDraw
from torch import Tensor, nn

from unbackdoor import api
from unbackdoor.attacks.badnets import BadNets
from unbackdoor.attacks.base import planting
from unbackdoor.cli.demo import ARCH, ATTACK, BATCH, BATCHES, WIDTH
from unbackdoor.core.images import to_float, to_uint8
from unbackdoor.core.run import Run
from unbackdoor.defenses.uat import UAT
from unbackdoor.training.disturbance import WAYS, disturbed
from unbackdoor.training.patches import Patches
from unbackdoor.training.universal import Universal

HERE = Path(__file__).parent
HEAD, BETWEEN = 32, 24
"""Pixels for the headings, and between the two sheets."""

SEARCHED = 100
"""Images that the searches see, as in a step of the repair."""


def main() -> None:
    """Plants, searches, repairs and draws."""
    run = Run(seed=0)
    train, test = (api.load_images(f"digits:{part}", channels=1) for part in ("train", "test"))
    theirs, clean = train[: 3 * BATCHES * BATCH].split(2 * BATCHES * BATCH, run.rng("two thirds"))
    attack = BadNets(**ATTACK)
    network = planting.Network(ARCH, {"width": WIDTH, "in_channels": 1})
    model = attack.plant(network.build(theirs, run), theirs, run).model.eval()
    digits = torch.cat([test[test.labels == number].pixels[:1] for number in range(1, 1 + DIGITS)])
    seen = clean.sample(SEARCHED, run.rng("picture"))
    added, patched, towards = found(model, to_float(seen.pixels), seen.labels, to_float(digits))
    sys.stdout.write(f"the best patch leads to class {towards}\n")
    torch.manual_seed(1)
    rows = {
        "clean": digits,
        "with the trigger": to_uint8(attack.stamp(to_float(digits))),
        "with a patch": patched,
        "with a perturbation": added,
        "disturbed": to_uint8(disturbed(to_float(digits), WAYS)),
    }
    repaired = UAT().repair(model, clean, run).model.eval()
    sheets = [contact_sheet(rows, digits, one) for one in (model, repaired)]
    side_by_side(*sheets).save(HERE / "uat.png", optimize=True)


def side_by_side(before: Image.Image, after: Image.Image) -> Image.Image:
    """Both sheets under their headings; the titles of the rows are said once."""
    width, height = before.size
    page = Image.new("L", (2 * width - LEFT + BETWEEN, height + HEAD), 255)
    page.paste(before, (0, HEAD))
    page.paste(after.crop((LEFT, 0, width, height)), (width + BETWEEN, HEAD))
    pen = ImageDraw.Draw(page)
    for left, title in ((LEFT, "before the repair"), (width + BETWEEN, "after it")):
        pen.text((left, 8), title, 26, font_size=16)
    return page


def found(model: nn.Module, x: Tensor, y: Tensor, digits: Tensor) -> tuple[Tensor, Tensor, int]:
    """`digits` with the perturbation and with the best patch that the searches find; its class."""
    method = UAT()
    torch.manual_seed(0)
    universal, patches = Universal(method.radius, method.ascent_steps), Patches(method.ascent_steps)
    universal.search(model, x, y)
    patches.search(model, x, y)
    _, (top, bottom, left, right), values = patches.state["found"][-1]
    patched = digits.clone()
    patched[..., top:bottom, left:right] = values[..., top:bottom, left:right]
    towards = int(torch.tensor(patches.state["hits"]).argmax())
    with torch.no_grad():
        added = universal.added(digits)
    return to_uint8(added), to_uint8(patched), towards


if __name__ == "__main__":
    main()
