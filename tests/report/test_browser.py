"""The bench's pages in a browser: offline, by keyboard, sorted and filtered."""

from __future__ import annotations

import shutil

import pytest

from report import bench_samples
from unbackdoor.report import results, site
from unbackdoor.report.spread import group

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture
def opened(browser, drawn):
    """Opens a page; nothing may be requested elsewhere, and nothing may be complained about."""
    contexts, trouble = [], []

    def page(name, site=drawn, **options):
        contexts.append(browser.new_context(**options))
        made = contexts[-1].new_page()
        made.set_default_timeout(60_000)
        made.on("request", lambda asked: asked.url.startswith("file:") or trouble.append(asked.url))
        made.on("requestfailed", lambda asked: trouble.append(asked.url))
        made.on("console", lambda told: trouble.append(told.text))
        made.on("pageerror", lambda error: trouble.append(str(error)))
        made.goto((site / name).as_uri())
        return made

    yield page
    assert trouble == []
    for context in contexts:
        context.close()


def column(page, table, place):
    return page.eval_on_selector_all(
        f"#{table} tbody tr", f"lines => lines.map(line => line.cells[{place}].dataset.value)"
    )


def test_sorting_by_mouse_and_by_keyboard(opened):
    page = opened("data-cifar10.html")
    assert column(page, "board", 0)[-1] == "none"
    page.click("#board th:nth-child(2) button")
    asr = [float(value) for value in column(page, "board", 1) if value]
    assert asr == sorted(asr)
    page.keyboard.press("Enter")
    asr = [float(value) for value in column(page, "board", 1) if value]
    assert asr == sorted(asr, reverse=True)
    assert page.get_attribute("#board th:nth-child(2)", "aria-sort") == "descending"
    page.focus("#board th:nth-child(1) button")
    page.keyboard.press("Space")
    names = column(page, "board", 0)
    assert names == sorted(names)


def shown(page, what):
    """A data attribute of the lines that the filters leave, of every number."""
    lines = "lines => lines.filter(l => !l.hidden).map(l => l.dataset."
    return set(page.eval_on_selector_all("#every tbody tr", f"{lines}{what})"))


@pytest.mark.parametrize(
    "chosen",
    [
        {"attack": "wanet", "rate": "0.05"},
        {"arch": "preact_resnet18 width=128"},
        {"budget": "2500"},
        {"arch": "preact_resnet18 width=64", "budget": "0.05", "attack": "badnets"},
    ],
    ids=lambda chosen: "+".join(chosen),
)
def test_filters_count_the_leaderboard_again(opened, folder, chosen):
    page = opened("data-cifar10.html")
    whole = [column(page, "board", place) for place in (1, 4)]
    for name, value in chosen.items():
        page.select_option(f"[data-filter={name}]", value)
    fit = [
        row
        for row in results.read(folder).rows
        if row.data == "cifar10"
        and all(
            str(getattr(row, name)) == value or not (row.attacked or name in ("arch", "budget"))
            for name, value in chosen.items()
        )
    ]
    for place, attacked, number in ((1, True, "asr"), (4, False, "acc")):
        columns = (column(page, "board", at) for at in (0, place))
        for name, value in zip(*columns, strict=True):
            own = [row for row in fit if row.defense == name and row.attacked == attacked]
            assert float(value) == pytest.approx(getattr(group(own), number).mean, abs=1e-6)
    for name, value in chosen.items():
        clean = {"attack": {"none"}, "rate": {"None"}}.get(name, set())
        assert shown(page, name) == {value, *clean}
    cells = sum(row.defense != "none" for row in fit)
    assert page.inner_text("#shown").startswith(f"{cells} of ")
    for name in chosen:
        page.select_option(f"[data-filter={name}]", "")
    for place, before in zip((1, 4), whole, strict=True):
        now = column(page, "board", place)
        assert list(map(float, now)) == pytest.approx(list(map(float, before)), abs=1e-6)


def test_several_networks_and_budgets_have_a_column_a_curve_and_a_text_each(opened):
    page = opened("data-cifar10.html")
    assert page.locator("#every thead th", has_text="Architecture").count() == 1
    networks = {"preact_resnet18 width=64", "preact_resnet18 width=128"}
    assert set(column(page, "every", 2)) == networks
    curve = page.locator("section[aria-labelledby=by-budget]")
    assert curve.locator("figure").count() == 5
    steps = [text.replace("\xa0", " ") for text in curve.locator(".ends").first.all_inner_texts()]
    assert steps[0].split("\n") == ["5 %", "2,500"]
    texts = [page.inner_text(f"[data-filter=budget] option:nth-child({at})") for at in (2, 3)]
    assert [text.replace("\xa0", " ") for text in texts] == ["5 %", "2,500"]
    heads = page.inner_text(".heat thead").replace("\xa0", " ")
    assert "width=64, rate 0.05, clean 5 %" in heads and "clean 2,500" in heads
    other = opened("data-b-2.html")
    assert other.locator("#every thead th", has_text="Architecture").count() == 0
    assert other.locator("[data-filter=budget]").count() == 0


def test_filters_that_leave_no_attack_leave_the_clean_models(opened, tmp_path):
    kinds = (
        {"attacks": ("badnets",), "rates": (0.05, 0.1), "epochs": 10},
        {"attacks": ({"name": "badnets", "count": 50},), "epochs": 20},
    )
    for kind in kinds:
        made = bench_samples.folder(tmp_path, defenses=("fine_tuning",), **kind)
    site.write(results.read(made), tmp_path / "site")
    page = opened("data-cifar10.html", tmp_path / "site")
    before = [float(value) for value in column(page, "board", 4)]
    page.select_option("[data-filter=attack]", "badnets count=50 epochs=20")
    page.select_option("[data-filter=rate]", "0.05")
    assert page.inner_text("#board tbody td:nth-child(8)") == "–"
    assert column(page, "board", 1) == ["", ""]
    assert [float(value) for value in column(page, "board", 4)] == pytest.approx(before, abs=1e-6)
    assert shown(page, "attack") == {"none epochs=10", "none epochs=20"}


def test_the_script_counts_as_the_pages_do(opened):
    page = opened("data-cifar10.html")
    before = page.inner_text("#board")
    page.select_option("[data-filter=attack]", "wanet")
    assert page.inner_text("#board") != before
    page.select_option("[data-filter=attack]", "")
    assert page.inner_text("#board").split() == before.split()


def test_the_map_shows_what_is_picked(opened):
    page = opened("data-cifar10.html")
    assert page.locator(".heat .asr").first.is_visible()
    assert not page.locator(".heat .acc").first.is_visible()
    page.focus(".pick [value=asr]")
    page.keyboard.press("ArrowRight")
    assert page.locator(".heat .ra").first.is_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_phones_scroll_no_page_sideways(opened, drawn, scheme):
    cell = next((drawn / "cells").iterdir()).name
    for name in ("index.html", "data-cifar10.html", "methods/defense-clp.html", f"cells/{cell}"):
        page = opened(name, viewport={"width": 390, "height": 844}, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, name
        light = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (light == "rgb(250, 249, 246)") == (scheme == "light")


# Colours as the browser paints them, one over the other; text on pictures is not measured.
CONTRAST = """() => {
  const context = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const painted = (colours) => {
    for (const colour of colours) { context.fillStyle = colour; context.fillRect(0, 0, 1, 1); }
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3);
  };
  const linear = (v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = (rgb) => rgb.map((v) => linear(v / 255))
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const found = [], walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const node = walker.currentNode, own = node.parentElement;
    if (!node.data.trim() || !own.checkVisibility()) continue;
    if (own.closest(".hidden, script, svg")) continue;
    const under = [];
    for (let part = own; part; part = part.parentElement) {
      under.unshift(getComputedStyle(part).backgroundColor);
    }
    const ink = getComputedStyle(own).color;
    const [a, b] = [[...under, ink], under].map((colours) => light(painted(colours)));
    found.push([(Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), node.data.trim()]);
  }
  return found;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_on_its_ground(opened, drawn, scheme):
    cell = next((drawn / "cells").iterdir()).name
    for name in ("index.html", "data-cifar10.html", "methods/defense-clp.html", f"cells/{cell}"):
        page = opened(name, color_scheme=scheme)
        found = page.evaluate(CONTRAST)
        assert len(found) > 30
        assert not [text for ratio, text in found if ratio < 4.5], name


def test_what_scrolls_can_be_scrolled_by_keyboard_and_has_a_name(opened):
    page = opened("data-cifar10.html", viewport={"width": 390, "height": 844})
    wide = """parts => parts.filter(part => part.scrollWidth > part.clientWidth + 1)
        .map(part => [part.tabIndex, document.getElementById(
            part.getAttribute("aria-labelledby"))?.textContent])"""
    found = page.eval_on_selector_all(".card", wide)
    assert len(found) >= 3 and all(index == 0 and name for index, name in found)


def test_an_open_flag_is_read_whole(opened):
    page = opened("data-cifar10.html", viewport={"width": 1180, "height": 900})
    page.click("#board details summary")
    inside = page.evaluate("""() => {
        const card = document.querySelector("#board").parentElement;
        const box = document.querySelector("#board details ul").getBoundingClientRect();
        return box.width > 200 && box.right <= card.getBoundingClientRect().right;
    }""")
    assert inside
