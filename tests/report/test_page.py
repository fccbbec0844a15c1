import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest

from report import samples
from unbackdoor.report import repair_page
from unbackdoor.report.page import examples
from unbackdoor.report.pictures import histograms

ALL = [
    samples.record,
    samples.unstamped,
    samples.unchanged,
    samples.deep,
    samples.empty,
    samples.demo,
]
VOID = {"meta", "img", "br", "wbr", "link", "input", "hr"}


class Reader(HTMLParser):
    """The tags with their attributes, and the text; fails where tags do not nest."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\N{NO-BREAK SPACE}", " ").split())


@pytest.fixture(params=ALL, ids=lambda made: made.__name__)
def made(request: pytest.FixtureRequest) -> Any:
    make: Callable[[], Any] = request.param
    return make()


def test_every_record_makes_a_page_that_asks_nobody(made: Any) -> None:
    page = repair_page(made)
    reader = Reader(page)
    for tag, attributes in reader.tags:
        assert tag not in {"script", "link", "iframe", "object"}
        for name in ("src", "href", "srcset", "action"):
            value = attributes.get(name) or "#"
            assert value.startswith(("#", "data:image/png;base64,"))
        assert not any(name.startswith("on") for name in attributes)
    assert "http" not in page.replace("http-equiv", "")
    assert "url(" not in page
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_every_record_makes_a_page_that_can_be_heard(made: Any) -> None:
    tags = Reader(repair_page(made)).tags
    ids = [attributes["id"] for _, attributes in tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in tags:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes.get("aria-label")
        if label := attributes.get("aria-labelledby"):
            assert label in ids
        if (href := attributes.get("href") or "").startswith("#"):
            assert href[1:] in ids
    assert sum(tag == "h1" for tag, _ in tags) == 1


def test_the_numbers_are_the_records() -> None:
    made = samples.record()
    text = Reader(repair_page(made)).text
    for name, value in made["defense"]["parameters"].items():
        assert f"{name} {'true' if value is True else value}" in text
    for when in ("before", "after"):
        for rate in made[when].values():
            assert f"{rate['hits']:,} of {rate['total']:,}" in text
            assert f"{100 * rate['value']:.1f} %" in text
    for part in ("98.4 to 98.9 %", "−97.4", "0.981", "11,171,146", "1,893 MiB", "22 min 59 s"):
        assert part in text
    for sha256 in ("3f", "a1", "b2", "c3", "d4"):
        assert sha256 * 32 in text
    assert (
        "gives 9,123 of 10,000 test images ( 91.2 % ) the class that the model gave before" in text
    )
    assert made["command"] in text
    assert "arXiv 2307.11565" in text
    assert "Seed 7 Device cpu, bf16" in text


def test_every_silenced_channel_is_listed() -> None:
    layers = samples.layers((64, 512))
    layers[0]["silenced"] = [3, 4, 5, 17]
    page = repair_page(samples.record(layers=layers))
    assert page.count('class="strip"') == 2
    assert '<path d="M3 0h3v1h-3zM17 0h1v1h-1z"/>' in page
    assert "12 of 576 channels in 2 layers" in Reader(page).text
    assert "3–5, 17" in Reader(page).text


def test_the_plot_places_each_rate_and_its_interval() -> None:
    tags = Reader(repair_page(samples.record())).tags
    dots = [found["cx"] for tag, found in tags if tag == "circle" and found.get("class")]
    assert dots == ["98.700%", "1.300%", "1.078%", "90.300%", "94.120%", "92.970%"]
    bands = [found for tag, found in tags if tag == "rect"]
    assert (bands[1]["x"], bands[1]["width"]) == ("1.086%", "0.470%")


def test_every_ranked_layer_has_its_histogram() -> None:
    made = samples.record(layers=samples.layers((64, 512)))
    page = repair_page(made)
    for drawn in histograms(made["layers"], log=False):
        assert f'<path d="{drawn.bars}"/>' in page
        assert f'<path d="{drawn.ticks}"/>' in page


def test_a_repair_without_pruning_says_so() -> None:
    layers = [{"name": "conv", "channels": 4, "silenced": [], "scores": None}]
    text = Reader(repair_page(samples.record(layers=layers))).text
    assert "silenced no channel" in text
    assert "How the channels ranked" not in text


def test_what_is_null_is_left_out_or_said() -> None:
    text = Reader(repair_page(samples.empty())).text
    assert text.count("– not measured") == 6
    assert "Test none given" in text
    assert "Triggered none given" in text
    for word in ("None", "nan", "null", "Defense effectiveness", "What the model says"):
        assert word not in text


def test_warnings_are_shown() -> None:
    assert "its interval is wide" in Reader(repair_page(samples.unstamped())).text


def test_guesses_are_marked_right_wrong_or_the_attackers_goal() -> None:
    first, *_, fifth, _ = examples(samples.record())
    clean, stamped = first.pictures
    assert [guess.mark for guess in clean.guesses] == ["right", "right"]
    assert [guess.mark for guess in stamped.guesses] == ["goal", "right"]
    clean, stamped = fifth.pictures
    assert [guess.mark for guess in clean.guesses] == ["wrong", "right"]
    assert [guess.mark for guess in stamped.guesses] == ["goal", "wrong"]


def test_all_to_all_wants_the_next_class_and_an_unknown_goal_is_only_wrong() -> None:
    made = samples.record(
        examples=[samples.example(1, "truck", "truck", "airplane", "truck", "cat")]
    )
    for target, mark in (("all-to-all", "goal"), (None, "wrong"), (0, "goal")):
        made["triggered"]["target"] = target
        assert [guess.mark for guess in examples(made)[0].pictures[1].guesses] == [mark, "wrong"]


def test_what_files_say_is_never_markup() -> None:
    evil = '"><script>alert(1)</script>'
    made = samples.record(command=evil, warnings=[evil], notes={evil: 1.0}, score_name=evil)
    made["model"] |= {"file": evil, "arch": evil, "classes": [evil], "options": {evil: evil}}
    made["clean"]["source"] = made["test"]["source"] = made["triggered"]["source"] = evil
    made["layers"][0]["name"] = evil
    made["output"]["file"] = evil
    made["defense"]["parameters"] = {evil: evil}
    made["examples"] = [samples.example(1, evil, evil, evil, evil, evil)]
    made["examples"][0]["stamped"] = evil  # no picture: not base64
    page = repair_page(made)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 12
    tags = [tag for tag, _ in Reader(page).tags]
    assert tags.count("img") == 1


def test_the_same_record_makes_the_same_page_and_stays_as_it_was(made: Any) -> None:
    text = repr(made)
    assert repair_page(made) == repair_page(made)
    assert repr(made) == text


def test_the_report_needs_no_torch() -> None:
    code = "import sys, unbackdoor.report; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
