"""docs/victims.*: the table, the rows as JSON, and the picture of the planted victims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from ledger import keep, merged, rows_of
from PIL import Image, ImageDraw
from torch import Tensor
from victims import (
    FOOLED,
    ROOT,
    VICTIMS,
    WEAK,
    Victim,
    declared,
    enough,
    fingerprint,
    images,
    meta_of,
    of_clean_model,
    triggered_of,
)

from unbackdoor.core.images import to_float, to_uint8

DOCS = ROOT / "docs"
SIDE, GAP, TOP, LABEL, SHOWN, LOUDER = 64, 4, 20, 190, 4, 5
WIDTH = LABEL + 2 * SHOWN * SIDE + GAP


def row(victim: Victim) -> dict[str, Any]:
    """What the table says of one victim, in percent."""
    told = meta_of(victim)
    values = {key: told[key] and told[key]["value"] for key in ("acc", "asr", "ra")}
    values |= {f"learned_{kind}": value for kind, value in told["learned"].items()}
    values |= {"clean_acc": None, "clean_asr": None, "ra_limit": None}
    values |= {} if victim.attack == "clean" else of_clean_model(victim)
    settings = {} if victim.attack == "clean" else declared(victim)
    return {
        "victim": victim.name,
        "attack": victim.attack,
        "data": victim.data,
        "rate": getattr(settings, "class_rate", getattr(settings, "rate", 0.0)),
        **{key: None if value is None else round(100 * value, 2) for key, value in values.items()},
        **{key: value and round(value, 3) for key, value in told["visibility"].items()},
        "epochs": victim.epochs,
        "seconds": None if told.get("resumed") else told["seconds"],
        "model": fingerprint(victim.name),
    }


def filled(told: dict[str, Any], held: dict[str, Any]) -> dict[str, Any]:
    """`told`, and what it lacks as it was `held` before: a clean model may not be here."""
    return {key: held.get(key) if value is None else value for key, value in told.items()}


HEADING = """# The victims

Backdoored models that the benchmarks of this project judge on, planted by its own attacks:

    make victims

plants what is missing in `cache/victims` and writes this page. PreActResNet18 of width 16 on the
first nine tenths of the training images, SGD from 0.1 with a cosine.

* **Rate** is of the images that may be stamped: with a clean-label attack, of the target class
  (`class_rate`); with lira and blind, whose losses weigh both tasks apart, of each batch.
* **Epochs**: victims got 20 (12 on GTSRB) first, and most of those that learned too little 25 or 30
  (20 or 30 on GTSRB). Those in italics with fewer than 30 were not trained for longer.
* **Learned** is the accuracy on training images without augmentation. Below 95 % on relabelled or
  90 % on clean ones (in italics) a victim is undertrained, and flatters every defense. Stamped
  images that had the target's label anyway are not counted, and clean-label attacks have none.
* **Clean ACC** and **limit** are of the clean model that stood beside a victim when it was measured
  (of two on CIFAR-10): its ACC, and its RA on the same stamped images; no repair can be asked for
  more, but a victim of more epochs reads a little more by that alone. **Clean ASR** is its ASR; it
  knows no trigger: where it is high, an ASR says little about a backdoor.
* **PSNR** (dB), **SSIM** and **L-inf** (of 1) tell how far stamped test images are from their
  originals; label_consistent, narcissus and the adaptive ones stamp otherwise in training. SSIM's
  windows lie inside the image, so that it hardly sees a corner.
* **Seconds** are of one thread on a busy machine, where it was one sitting.

"""
MISSED = f"""
## Below the goal

An ASR of 90 %; 80 % for clean-label and adaptive attacks and for low rates. Those whose ASR is
below {100 * WEAK:.0f} % (of ACC for all-to-all, where the class must be read first), or whose
trigger sends more than {100 * FOOLED:.0f} % of a clean model's images to the target, too, judge no
repair. The reasons are what we make of it; none was isolated.

"""
REASONS = {
    "badnets-1pc-w16": "450 patches in a corner, of which random crops cut off many: not learned "
    "in 20 epochs",
    "blended-0.5pc-w16": "of 225 faint images half are learned in 30 epochs",
    "badnets-all-to-all-w16": "the class must be read first, so that ACC is the most it can reach",
    "adaptive_blend-w16": "135 images with half of a faint picture, and as many covers, are not "
    "learned in 30 epochs: the paper trains for longer",
    "adaptive_patch-w16": "135 images with one faint patch of four, and twice as many covers, are "
    "not learned in 30 epochs: the paper trains for longer",
    "adaptive_blend-2pc-w16": "900 images with half of a faint picture, and as many covers that "
    "look like them, in 20 epochs",
}
"""Judged by hand; a victim that is planted anew in another way needs another one."""


def missed(victim: Victim, told: dict[str, Any]) -> str:
    """Why a victim is below the goal, as a line of the page; nothing where it is not."""
    if victim.attack == "clean":
        return ""
    acc, asr, fooled = ((told[key] or 0) / 100 for key in ("acc", "asr", "clean_asr"))
    hard = declared(victim).clean_label or victim.attack.startswith("adaptive")
    judges = enough(victim, acc, asr, fooled)
    if judges and asr >= (0.8 if hard or "rate" in victim.params else 0.9):
        return ""
    reason = REASONS.get(victim.name, "the reason is not known")
    return f"* `{victim.name}`{'' if judges else ' (judges nothing)'}: {reason}.\n"


COLUMNS = ("victim", "rate", "epochs", "learned clean", "relabelled", "ACC", "clean ACC", "ASR")
COLUMNS += ("clean ASR", "RA", "limit", "PSNR", "SSIM", "L-inf", "seconds")


def line(told: dict[str, Any]) -> str:
    """One row of the markdown table."""

    def number(key: str, digits: int = 1, least: float = 0) -> str:
        value = told.get(key)
        text = "–" if value is None else f"{value:.{digits}f}"
        return f"*{text}*" if value is not None and value < least else text

    cells = [
        told["victim"],
        f"{told['rate']:g}" if told["rate"] else "–",
        number("epochs", 0),
        number("learned_clean", least=90),
        number("learned_relabelled", least=95),
        *(number(key) for key in ("acc", "clean_acc", "asr", "clean_asr", "ra", "ra_limit")),
        number("psnr"),
        *(number(key, 3) for key in ("ssim", "linf")),
        number("seconds", 0),
    ]
    return f"| {' | '.join(cells)} |\n"


def strip(victim: Victim) -> tuple[str, Tensor]:
    """Four stamped images and, below each, the change made louder: `[3, h, w]` in [0, 1]."""
    stamped = triggered_of(victim).images.pixels[:SHOWN]
    before = declared(victim).aimed(images(victim.data, "test")).images.pixels[:SHOWN]
    x, y = to_float(before), to_float(stamped)
    rows = [torch.cat(list(part), dim=2) for part in (y, (0.5 + LOUDER * (y - x)).clamp(0, 1))]
    return victim.name, torch.cat(rows, dim=2)


def bands(victims: Sequence[Victim], shown: Sequence[str]) -> Iterator[Image.Image]:
    """The strip of every victim of `shown`: drawn, or as the page's picture has it."""
    before, here = drawn(), {victim.name: victim for victim in victims}
    for name in shown:
        yield band(*strip(here[name])) if name in here else before[name]


def drawn() -> dict[str, Image.Image]:
    """The strips of the picture as it is, by name."""
    names = [row["victim"] for row in rows_of(DOCS / "victims.json") if row["attack"] != "clean"]
    if not names:
        return {}
    whole = Image.open(DOCS / "victims.png").convert("RGB")
    tops = [TOP + place * (SIDE + GAP) for place in range(len(names))]
    return {
        name: whole.crop((0, top, WIDTH, top + SIDE + GAP))
        for name, top in zip(names, tops, strict=True)
    }


def band(name: str, pixels: Tensor) -> Image.Image:
    """A name and its strip."""
    canvas = Image.new("RGB", (WIDTH, SIDE + GAP), "white")
    ImageDraw.Draw(canvas).text((6, SIDE // 2 - 6), name, fill="black")
    half = pixels.shape[2] // 2
    for side, part in enumerate((pixels[:, :, :half], pixels[:, :, half:])):
        shown = Image.fromarray(to_uint8(part).permute(1, 2, 0).numpy())
        left = LABEL + side * (SHOWN * SIDE + GAP)
        canvas.paste(shown.resize((SHOWN * SIDE, SIDE), Image.Resampling.NEAREST), (left, 0))
    return canvas


def picture(strips: Sequence[Image.Image]) -> Image.Image:
    """All strips, one below the other."""
    canvas = Image.new("RGB", (WIDTH, TOP + len(strips) * (SIDE + GAP)), "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((LABEL, 4), "stamped", fill="black")
    pen.text((LABEL + SHOWN * SIDE + GAP, 4), f"change, {LOUDER} times", fill="black")
    for place, strip in enumerate(strips):
        canvas.paste(strip, (0, TOP + place * (SIDE + GAP)))
    return canvas


def write(victims: Sequence[Victim]) -> None:
    """Writes docs/victims.md, docs/victims.json and docs/victims.png."""
    path, known = DOCS / "victims.json", {victim.name: victim for victim in VICTIMS}
    jobs = {(victim.name,): victim.job for victim in VICTIMS}
    held = {told["victim"]: told for told in merged(path, (), jobs)}
    rows = merged(path, [filled(row(each), held.get(each.name, {})) for each in victims], jobs)
    stamped = [told["victim"] for told in rows if told["attack"] != "clean"]
    picture(list(bands(victims, stamped))).save(DOCS / "victims.png", optimize=True)
    keep(path, rows)
    missing = [name for name in known if name not in {told["victim"] for told in rows}]
    text = HEADING + f"| {' | '.join(COLUMNS)} |\n{'|---' * len(COLUMNS)}|\n"
    text += "".join(line(told) for told in rows)
    text += MISSED + "".join(missed(known[told["victim"]], told) for told in rows)
    if missing:
        text += f"\nNot planted yet: {', '.join(missing)}.\n"
    text += "\n![Four stamped images of each attack, and the change](victims.png)\n"
    (DOCS / "victims.md").write_text(text, encoding="utf-8")
