"""Takes docs/report.png: `python docs/pictures/shoot.py demo/report.html`, after `make demo`.

Needs playwright and a Chromium (`CHROMIUM` names it if playwright has none of its own).
"""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

OUT = Path(__file__).parent.parent / "report.png"
WIDTH, SECOND, COLOURS = 1000, 52, 160


def main(page: Path) -> None:
    """The top of the report, down to the first examples, without its story and the DER."""
    with sync_playwright() as play:
        browser = play.chromium.launch(executable_path=os.environ.get("CHROMIUM"))
        tab = browser.new_page(
            viewport={"width": WIDTH, "height": 4000}, device_scale_factor=1.5, color_scheme="light"
        )
        tab.goto(page.resolve().as_uri())
        for left_out in ("section:has(#story)", "p:has-text('Defense effectiveness rating')"):
            tab.locator(left_out).evaluate("it => it.remove()")
        boxes = [box.bounding_box() for box in tab.locator("#examples ~ * figure").all()]
        tops = sorted({round(box["y"]) for box in boxes if box})
        bottom = tops[1] - SECOND
        clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom}
        shot = Image.open(io.BytesIO(tab.screenshot(clip=clip)))  # type: ignore[arg-type]
        browser.close()
    shot.convert("RGB").quantize(COLOURS).save(OUT, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
