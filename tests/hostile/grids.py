"""Grid files of `bench`: TOML that blows up, multiplies without end, or names what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .inputs import CANARY, DIGITS, EITHER, REFUSED, TEXTS, Input, sparse, written
from .samples import small_model

BENCH = ["bench", "a.toml", "--dry-run", "--out", "out/bench"]
GOOD = """
seeds = [0]
budgets = [0.3]
defenses = ["fmp"]
[[data]]
name = "digits"
[[architectures]]
name = "badnet_cnn"
[[attacks]]
name = "badnets"
"""


def grid(**changes: str) -> str:
    """A good grid in which the value of these keys is another."""
    lines = [line for line in GOOD.splitlines() if line.partition(" = ")[0] not in changes]
    return "\n".join([*(f"{key} = {value}" for key, value in changes.items()), *lines])


def table(kind: str, text: str) -> str:
    """A good grid whose last table of a kind has these lines, too."""
    return GOOD.replace(f"[[{kind}]]", f"[[{kind}]]\n{text}", 1)


def quoted(text: str) -> str:
    """`text` as TOML writes it."""
    return '"' + "".join(c if c.isalnum() or c in " .-" else f"\\U{ord(c):08x}" for c in text) + '"'


HUNDRED = str(list(range(1, 101)))
WHOLE: dict[str, str] = {
    "no TOML": "= =",
    "nothing": "",
    "a NUL": "a = '\0'",
    "lists 100,000 deep": "a = " + "[" * 100_000,
    "tables 100,000 deep": "[" + "a." * 100_000 + "b]",
    "tables in one another": "a = " + "{a=" * 50_000,
    "a key of 10^6 dots": "a." * 10**6 + "b = 1",
    "a million keys": "\n".join(f"k{n} = 1" for n in range(300_000)),
    "a million tables": "[[data]]\n" * 300_000,
    "one key twice": "seeds = [1]\nseeds = [2]",
    "a number of 5,000 digits": grid(seeds=f"[{DIGITS}]"),
    "a share of 5,000 digits": grid(budgets=f"[0.{DIGITS}]"),
    "a text of 10 MB": grid(defenses='["' + "x" * 10**7 + '"]'),
    "a million seeds": grid(seeds=str(list(range(10**6)))),
    "a million budgets": grid(budgets="[" + "0.5," * 10**6 + "]"),
    "100 of everything": grid(seeds=HUNDRED, budgets=HUNDRED, rates="[" + "0.1," * 100 + "]"),
    "10^20 attacks": table("attacks", "".join(f"{k} = {HUNDRED}\n" for k in "abcdefghij")),
    "10^20 networks": table("architectures", "".join(f"{k} = {HUNDRED}\n" for k in "abcdefghij")),
    "10^20 defenses": GOOD.replace('defenses = ["fmp"]', "")
    + "[[defenses]]\nname='fmp'\n"
    + "".join(f"{k} = {HUNDRED}\n" for k in "abcdefghij"),
    "seeds of NaN": grid(seeds="[nan]"),
    "budgets of NaN": grid(budgets="[nan]"),
    "budgets of infinity": grid(budgets="[inf]"),
    "budgets of 10^400": grid(budgets="[1" + "0" * 400 + "]"),
    "seeds of -1": grid(seeds="[-1]"),
    "seeds that are dates": grid(seeds="[2026-01-01]"),
    "seeds beyond int64": grid(seeds="[99999999999999999999]"),
    "seeds that are tables": grid(seeds="[{a=1}]"),
    "defenses that are numbers": grid(defenses="[1]"),
    "defenses in lists": grid(defenses="[[['fmp']]]"),
    "rates of NaN": grid(rates="[nan]"),
    "an unknown key": grid(evil="1"),
    "dunders": grid(__class__="1", model_config="{}"),
    "an attack that is a path": GOOD.replace("badnets", "../../evil"),
    "an attack that is a module": GOOD.replace('"badnets"', '"base.attack"'),
    "a defense that is a dunder": GOOD.replace('"fmp"', '"__init__"'),
    "a data set that is a path": GOOD.replace('"digits"', '"../../evil"'),
    "a width of 10^9": table("architectures", "width = 1000000000\nhidden = 1000000000"),
    "a million layers": GOOD.replace('"badnet_cnn"', '"cifar_resnet"\ndepth = 6000002'),
    "a width that is a table": table("architectures", "width = {a = 1}"),
    "a width of 5,000 digits": table("architectures", f"width = {DIGITS}"),
    "a network of timm's hub": GOOD.replace('"badnet_cnn"', '"timm:hf_hub:someone/model"'),
    "an option that fetches": GOOD.replace('"badnet_cnn"', '"timm:resnet18"\npretrained = true'),
    "a network of another library": GOOD.replace('"badnet_cnn"', '"transformers:auto"'),
    "an eps of 1e400": GOOD.replace('["fmp"]', '[{name = "fmp", eps = 1e400}]'),
    "a date for a number": GOOD.replace('["fmp"]', '[{name = "fmp", eps = 2026-01-01}]'),
    "a size of 10^12": table("data", "size = 1000000000000\ntrain = 'x'\ntest = 'y'"),
    "training of a million keys": GOOD
    + "[training]\n"
    + "\n".join(f"k{n} = 1" for n in range(200_000)),
}
MODEL = "model = 'm.safetensors'\n"
OWN = "defenses = ['fmp']\nseeds = [0]\n[[victims]]\nname = 'v'\n" + MODEL
CODE: dict[str, str] = {
    "a network": GOOD.replace('"badnet_cnn"', '"evil.py:build"'),
    "a network by module": GOOD.replace('"badnet_cnn"', '"evil:build"'),
    "a network by name alone": GOOD.replace('[[architectures]]\nname = "badnet_cnn"', "").replace(
        "seeds", 'architectures = ["evil.py:build"]\nseeds', 1
    ),
    "a network of the hub": GOOD.replace('"badnet_cnn"', '"torch.hub:load"'),
    "a victim's network": OWN + "arch = 'evil.py:build'\nclean = 'digits'\ntest = 'digits'\n",
}
"""What the person has to allow on the command line."""
VICTIMS: dict[str, str] = {
    "that is a pickle": "model = 'evil.pt'",
    "that is not there": "model = '/nowhere'",
    "that never ends": "model = '/dev/zero'",
    "that is a folder of all": "model = '/'",
    "that names code": MODEL + "arch = 'os:system'\noptions = {x = 1}",
    "with a source that never ends": MODEL + "clean = '/dev/zero'\ntest = '/dev/zero'",
    "with a source that is a pickle": MODEL + "clean = 'evil.pt'\ntest = 'evil.pt'",
    "with 10^12 classes": MODEL + "classes = 1000000000000",
    "with a mean of NaN": MODEL + "mean = [nan]\nstd = [nan]",
    "with a variable": "model = '$HOME/$(touch canary)/${PATH}'",
    "with a target of 10^12": MODEL + "triggered = 'evil.pt'\ntarget = 1000000000000",
    "with a name that is a path": MODEL + "data = '../../x'",
}


def inputs() -> Iterator[Input]:
    for name, text in WHOLE.items():

        def make(folder: Path, text: str = text) -> list[str]:
            written(folder / "a.toml", text)
            return BENCH

        yield Input("grid", name, make, EITHER)
    for name, text in VICTIMS.items():

        def victim(folder: Path, text: str = text) -> list[str]:
            small_model(folder / "m.safetensors")
            written(folder / "evil.pt", f"cos\nsystem\n(S'touch {folder / CANARY}'\ntR.")
            own = (
                ""
                if "data" in text or "clean" in text
                else "clean = 'digits:train'\ntest = 'digits:test'\n"
            )
            written(
                folder / "a.toml",
                f"defenses = ['fmp']\nseeds = [0]\n[[victims]]\nname = 'v'\n{own}{text}\n",
            )
            return BENCH

        yield Input("grid", f"a victim {name}", victim, EITHER)
    for name, text in TEXTS.items():
        told = quoted(text.encode("utf-8", "replace").decode()[:20_000])
        for kind, changed in {
            "a data set": table("data", "train = 'x'\ntest = 'y'").replace('"digits"', told),
            "a defense": GOOD.replace('["fmp"]', f"[{told}]"),
            "a source": GOOD.replace('"digits"', f'"digits"\ntrain = {told}\ntest = {told}'),
        }.items():

            def shown(folder: Path, changed: str = changed) -> list[str]:
                written(folder / "a.toml", changed)
                return BENCH

            yield Input("grid", f"{name} as {kind}", shown, EITHER)

    def endless(folder: Path) -> list[str]:
        (folder / "a.toml").symlink_to("/dev/zero")
        return BENCH

    def holes(folder: Path) -> list[str]:
        sparse(folder / "a.toml", 10**10, GOOD.encode())
        return BENCH

    def pipe(folder: Path) -> list[str]:
        import os

        os.mkfifo(folder / "a.toml")
        return BENCH

    for where, text in CODE.items():

        def code(folder: Path, text: str = text) -> list[str]:
            small_model(folder / "m.safetensors")
            written(folder / "evil.py", f"open({str(folder / CANARY)!r}, 'w')\nbuild = None\n")
            written(folder / "a.toml", text)
            return BENCH

        yield Input("grid", f"code of its own as {where}", code, REFUSED)
    yield Input("grid", "a link to /dev/zero", endless, REFUSED)
    yield Input("grid", "10 GB of nothing", holes, REFUSED)
    yield Input("grid", "a pipe", pipe, REFUSED)
