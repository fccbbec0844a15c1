"""Reference pages of attacks, defenses, scanners and networks, made from their declarations.

A hook of mkdocs. The pages say what `unbackdoor describe` says, by the same function.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Sequence
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from unbackdoor import models
from unbackdoor.core import method
from unbackdoor.defenses.base.needs import NEEDS

GROUPS: dict[method.Role, str] = {
    "defense": "Defenses",
    "attack": "Attacks",
    "scanner": "Scanners",
}
INTRODUCTIONS = {
    "defense": "A defense gets a model and clean images, and returns a repaired copy. "
    "Choose one with `unbackdoor repair --defense NAME`.",
    "attack": "An attack plants a backdoor in a model that you train, to practise on. "
    "Choose one with `unbackdoor attack NAME`.",
    "scanner": "A scanner tells whether a model shows signs of a backdoor. "
    "Choose one with `unbackdoor scan --scanner NAME`.",
}
USES = {
    "defense": "unbackdoor repair MODEL --clean SRC --defense {name} --out DIR",
    "attack": "unbackdoor attack {name} --data SRC --arch NAME --out DIR",
    "scanner": "unbackdoor scan MODEL --clean SRC --scanner {name}",
}
FOOTNOTE = (
    "`-p NAME=VALUE` sets a parameter on the command line, `NAME=VALUE` in Python. "
    "`unbackdoor describe {name}` prints the same."
)


def pages() -> dict[str, str]:
    """Every reference page: its path under `docs/` -> its markdown."""
    found = {"reference/networks.md": networks()}
    for role in method.ROLES:
        told = [method.declared(method.find(role, name)) for name in method.names(role)]
        found[_path(role, "index")] = index(role, told)
        for one in told:
            found[_path(role, one["name"])] = page(role, one)
    return found


def index(role: method.Role, told: list[dict[str, Any]]) -> str:
    """The table of all methods of a role."""
    rows = [(f"[{one['name']}]({one['name']}.md)", one["summary"]) for one in told]
    return f"# {GROUPS[role]}\n\n{INTRODUCTIONS[role]}\n\n{table((role, 'what it does'), rows)}\n"


def _needed(told: dict[str, Any]) -> list[str]:
    """What a defense needs; nothing for other methods."""
    if "needs" not in told:
        return []
    needed = [meaning for need, meaning in NEEDS.items() if need in told["needs"]]
    return [f"**Needs:** {'; '.join(needed) or 'the model alone'}"]


def page(role: method.Role, told: dict[str, Any]) -> str:
    """One method: what it does, its paper, its limits and its parameters."""
    name = told["name"]
    cls = method.find(role, name)
    own = cls.__annotations__.keys() & told["parameters"].keys()
    parts = {True: "Parameters", False: f"Parameters shared with other {role}s"}
    blocks = [
        f"# {name}",
        told["summary"],
        f"**Paper:** {linked(told['paper'])}",
        f"**Limits:** {told['limits']}",
        *_needed(told),
        f"```sh\n{USES[role].format(name=name)}\n```",
    ]
    for mine, title in parts.items():
        rows = [
            (f"`{key}`", field["description"], f"`{json.dumps(field['default'])}`", allowed(field))
            for key, field in told["parameters"].items()
            if (key in own) is mine
        ]
        if rows:
            head = ("name", "meaning", "default", "allowed")
            blocks += [f"## {title}", table(head, rows)]
    if more := details(cls):
        blocks += ["## Details", more]
    return "\n\n".join([*blocks, FOOTNOTE.format(name=name)]) + "\n"


def networks() -> str:
    """The networks that are known by name, and the options of our own."""
    blocks = [
        "# Networks",
        "Name one with `--arch NAME` and set its options with `--model-option KEY=VALUE`. "
        "`unbackdoor inspect FILE` says which of these a file fits. "
        "Your own network is `--arch mynet.py:Net`: see [What opens](../opening.md).",
        "## Networks of this package",
    ]
    rows = []
    for name in models.own():
        module = importlib.import_module(f"{models.__name__}.{name}")
        parameters = inspect.signature(module.build).parameters
        options = (f"`{key}={parameters[key].default}`" for key in models.options(name))
        rows.append((f"`{name}`", _first(module), ", ".join(options)))
    blocks += [table(("name", "network", "options and their defaults"), rows)]
    theirs = [name for name in models.names() if name not in models.own()]
    blocks += [
        "## Networks of torchvision",
        "Options are the keyword arguments of torchvision's function of that name.",
        ", ".join(f"`{name}`" for name in theirs),
        "## Networks of timm",
        "`timm:NAME`, for every classifier of timm, after `pip install 'unbackdoor[hub]'`.",
    ]
    return "\n\n".join(blocks) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table; bars in cells are escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def details(cls: type[method.Method]) -> str:
    """What the docstring of a method says after its first line; examples become code."""
    rest = (inspect.getdoc(cls) or "").partition("\n")[2].strip()
    return re.sub(
        r"(?:^>>>.*\n?(?:^(?!\s*$).*\n?)*)+",
        lambda found: f"```pycon\n{found[0].rstrip()}\n```\n",
        rest,
        flags=re.MULTILINE,
    )


def linked(paper: str) -> str:
    """The citation, its arXiv number a link."""
    return re.sub(r"(?:arXiv )?\b(\d{4}\.\d{5})\b", r"[arXiv \1](https://arxiv.org/abs/\1)", paper)


def allowed(field: dict[str, Any]) -> str:
    """The type and the bounds of a parameter, as `describe` says them."""
    return ", ".join([field["type"], *(f"{at} {end:g}" for at, end in field["bounds"].items())])


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the page of every method under its index in the navigation."""
    for section in config["nav"]:
        for entry in section.get("Reference", []) if isinstance(section, dict) else []:
            for role, title in GROUPS.items():
                if title in entry:
                    own = [{name: _path(role, name)} for name in method.names(role)]
                    entry[title] = [_path(role, "index"), *own]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages to those of the folder."""
    for path, content in pages().items():
        files.append(File.generated(config, path, content=content))
    return files


def _path(role: str, name: str) -> str:
    return f"reference/{role}s/{name}.md"


def _first(module: Any) -> str:
    return (inspect.getdoc(module) or "").partition("\n")[0]
