"""The documentation site: its navigation, its generated reference, and that it loads nothing."""

from __future__ import annotations

import importlib.util
import re
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from unbackdoor import models
from unbackdoor.core import method

pytest.importorskip("mkdocs")
yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
CONFIG = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def hook() -> ModuleType:
    (path,) = CONFIG["hooks"]
    spec = importlib.util.spec_from_file_location("docs_hook", ROOT / path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["docs_hook"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> dict[str, str]:
    return hook().pages()


def named(entry: Any) -> list[str]:
    """The pages that an entry of the navigation names."""
    if isinstance(entry, str):
        return [entry]
    parts = entry.values() if isinstance(entry, dict) else entry
    return [page for part in parts for page in named(part)]


def test_the_navigation_names_every_page_once(reference):
    config = {"nav": yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]}
    pages = named(hook().on_config(config)["nav"])
    written = [path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")]
    written = [path for path in written if "/site/" not in path]
    assert sorted(pages) == sorted([*written, *reference])


def test_every_method_and_every_parameter_has_its_place(reference):
    for role in method.ROLES:
        index = reference[f"reference/{role}s/index.md"]
        for name in method.names(role):
            told = method.declared(method.find(role, name))
            page = reference[f"reference/{role}s/{name}.md"]
            assert f"[{name}]({name}.md)" in index and told["summary"] in index
            assert told["summary"] in page and told["limits"] in page
            rows = re.findall(r"^\| `(\w+)` \| (.+) \| `(.*)` \| .+ \|$", page, re.MULTILINE)
            assert {row[0] for row in rows} == told["parameters"].keys(), name


def test_every_network_of_ours_is_there_with_its_options(reference):
    for name in models.own():
        (row,) = re.findall(rf"^\| `{name}` .*", reference["reference/networks.md"], re.MULTILINE)
        assert all(f"`{option}=" in row for option in models.options(name))


def test_links_to_generated_pages_lead_somewhere(reference):
    for page in DOCS.glob("*.md"):
        for link in re.findall(r"\]\((reference/[^)#]+)\)", page.read_text(encoding="utf-8")):
            assert link in reference, (page, link)


def test_a_doctest_becomes_code():
    class Shown(method.Method):
        """One line.

        More of it.

        >>> 1 + 1
        2

        The end.
        """

    assert hook().details(Shown) == "More of it.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nThe end."


def test_a_bar_in_a_cell_does_not_end_it():
    assert hook().table(("a",), [("b | c",)]).splitlines()[-1] == r"| b \| c |"


def test_nothing_is_loaded_from_elsewhere():
    assert CONFIG["theme"]["font"] is False
    assert {"offline", "search"} <= set(map(str, CONFIG["plugins"]))
    # The plugin `offline` adds a script from a CDN unless one of this name is given.
    assert any("iframe-worker" in path for path in CONFIG["extra"]["polyfills"])
    # With it, the theme's script asks api.github.com how many stars the project has.
    assert "repo_url" not in CONFIG
    loaded = [*CONFIG["extra_css"], *CONFIG["extra"]["polyfills"], CONFIG["theme"]["favicon"]]
    assert all((DOCS / path).is_file() for path in loaded)
    for path in DOCS.rglob("*"):
        if path.suffix in (".css", ".svg", ".js"):
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"""(url\(|src=|href=|@import|["'])\s*["']?https?:""", text), path
        if path.suffix == ".md":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"!\[[^]]*\]\(https?:|<\w+ [^>]*src=.?https?:", text), path


def test_pictures_are_small():
    for path in (DOCS / "report.png", *(DOCS / "pictures").iterdir()):
        if path.suffix in (".png", ".svg"):
            assert path.stat().st_size < 150_000, path


@pytest.mark.parametrize("name", ["draw", "draw_readings", "draw_uat"])
def test_what_draws_the_pictures_still_finds_its_parts(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(DOCS / "pictures")
    assert callable(runpy.run_path(str(DOCS / "pictures" / f"{name}.py"))["main"])


def test_the_picture_of_the_readings_is_that_of_the_result_files() -> None:
    drawn = runpy.run_path(str(DOCS / "pictures" / "draw_readings.py"))["picture"]()
    assert drawn == (DOCS / "pictures" / "readings.svg").read_text(encoding="utf-8")
