import pytest

from report import samples
from unbackdoor.report import model_card
from unbackdoor.report.card import escaped, fenced


def test_the_card_tells_what_the_record_holds() -> None:
    made = samples.record()
    card = model_card(made).replace("\N{NO-BREAK SPACE}", " ")
    assert card.startswith("---\nlibrary_name: unbackdoor\n")
    assert f"```sh\n{made['command']}\n```" in card
    assert (
        "98.7 % (8,883 of 9,000; 98.4 to 98.9 %) | 1.3 % (117 of 9,000; 1.1 to 1.6 %) | −97.4 |"
        in card
    )
    assert "91.2 % of the test images (9,123 of 10,000) get the class that" in card
    assert "| eps | 0.00392156862745098 |" in card
    assert "| hold | true |" in card
    for text in ("3f" * 32, "d4" * 32, "arXiv 2307.11565", "75 of 4,800 channels", "Seed 7"):
        assert text in card


@pytest.mark.parametrize("name", ["unstamped", "unchanged", "deep", "empty", "demo"])
def test_every_record_makes_a_card(name: str) -> None:
    card = model_card(getattr(samples, name)())
    assert "None" not in card
    assert "nan" not in card
    assert "\n\n\n" not in card


def test_what_files_say_is_never_markup() -> None:
    evil = "<script>alert(1)</script> | *a* `b`\n# [x](y)"
    made = samples.record(command="unbackdoor repair '```\n# no heading'", warnings=[evil])
    made["model"] |= {"file": evil, "arch": evil, "classes": [evil], "options": {evil: evil}}
    made["defense"]["parameters"] = {evil: evil}
    made["triggered"]["source"] = evil
    card = model_card(made)
    assert "<script" not in card
    assert "\n# [x]" not in card
    assert "````sh\nunbackdoor repair '```\n# no heading'\n````" in card


def test_escaping_keeps_plain_text_as_it_is() -> None:
    assert escaped("out/model-1.safetensors, 98.7 %") == "out/model-1.safetensors, 98.7 %"
    assert escaped("a_b\n| <c>") == r"a\_b \| &lt;c&gt;"
    assert fenced("a ```` b") == "`````sh\na ```` b\n`````"
