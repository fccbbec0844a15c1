from __future__ import annotations

from unbackdoor.cli.console import Console, table


def test_what_looks_like_an_emoji_or_markup_is_written_as_it_is(capsys):
    with Console() as console:
        console.say("digits:train: [3] images")
        console.result({}, table(("source",), [("digits:train:",)]))
    out, err = capsys.readouterr()
    assert "digits:train: [3] images" in err and "digits:train:" in out
