"""Method: one frozen, validated declaration. The folder of a role is the list of its methods.

A method's fields are all of its hyper-parameters, each with a unit and bounds. The Python
signature, `-p key=value`, the record and the documentation are derived from them.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from .errors import ParameterError, UnknownNameError

Role = Literal["attack", "defense", "scanner"]
ROLES: tuple[Role, ...] = get_args(Role)


BOUNDS = {
    "minimum": ">=",
    "exclusiveMinimum": ">",
    "maximum": "<=",
    "exclusiveMaximum": "<",
}


class Method(BaseModel):
    """What every method shares: a declaration that cannot change and knows its source."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    paper: ClassVar[str]
    """Authors, title, venue; the arXiv number where there is one."""
    limits: ClassVar[str]
    """What the method is known not to do."""

    @classmethod
    def name(cls) -> str:
        """The name it goes by: that of its file."""
        return cls.__module__.rpartition(".")[2]

    def declaration(self) -> dict[str, Any]:
        """Its name and every field, as plain JSON values."""
        return {"name": self.name(), **self.model_dump(mode="json")}


def source(text: str) -> dict[str, JsonValue]:
    """Where a field's default comes from, for `Field(json_schema_extra=source(...))`.

    `text` names a paper, its released code or a known collection; or it begins with `ours:` and
    says why the default is not that of the paper.

    >>> source("ours: the smallest that changes an image")
    {'source': 'ours: the smallest that changes an image'}
    """
    return {"source": text}


def _folder(role: Role) -> str:
    return f"{__package__.rpartition('.')[0]}.{role}s"


def names(role: Role) -> tuple[str, ...]:
    """The methods of a role: the files of its folder. Imports none of them."""
    folder = importlib.import_module(_folder(role))
    found = pkgutil.iter_modules(folder.__path__)
    return tuple(sorted(module.name for module in found if not module.ispkg))


def find(role: Role, name: str) -> type[Method]:
    """The class of the method called `name`; raises `UnknownNameError` with the nearest name."""
    if name not in names(role):
        raise UnknownNameError.of(role, name, names(role))
    module = importlib.import_module(f"{_folder(role)}.{name}")
    for _, found in inspect.getmembers(module, inspect.isclass):
        if issubclass(found, Method) and found.__module__ == module.__name__:
            return found
    raise UnknownNameError(f"{module.__name__} declares no method")


def build(
    role: Role,
    name: str,
    parameters: Mapping[str, object] | None = None,
    *,
    mirrored: bool = True,
) -> Method:
    """The method called `name` with these `parameters`; text is parsed as JSON where it is JSON.

    Where a list is wanted, text with commas will do.

    Of images that must not be `mirrored` a method mirrors none, unless `flip` is given.
    Raises `UnknownNameError` for an unknown field and `ParameterError` for a value out of bounds.
    """
    cls = find(role, name)
    known = {"flip": False} if not mirrored and "flip" in cls.model_fields else {}
    return made(cls, {**known, **(parameters or {})})


def made(cls: type[Method], parameters: Mapping[str, object]) -> Method:
    """The method of class `cls` with these `parameters`; as `build`."""
    name = cls.name()
    for key in parameters:
        if key not in cls.model_fields:
            raise UnknownNameError.of(f"parameter of {name}", key, cls.model_fields)
    given = {
        key: _listed(value) if _is_list(cls.model_fields[key].annotation) else _parsed(value)
        for key, value in parameters.items()
    }
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise ParameterError(one_line(name, error)) from None


def declared(cls: type[Method]) -> dict[str, Any]:
    """What the class of a method says of itself, as JSON values."""
    fields = cls.model_json_schema()["properties"]
    needs = getattr(cls, "needs", None)
    return {
        "name": cls.name(),
        "summary": (cls.__doc__ or "").partition("\n")[0],
        "details": details(cls),
        "paper": cls.paper,
        "limits": cls.limits,
        **({} if needs is None else {"needs": sorted(needs)}),
        "parameters": {
            name: {
                "type": _type(schema),
                "default": schema.get("default"),
                "bounds": {sign: schema[key] for key, sign in BOUNDS.items() if key in schema},
                "description": schema.get("description", ""),
                "source": schema.get("source"),
            }
            for name, schema in fields.items()
        },
    }


def details(cls: type[Method]) -> str:
    """What the docstring of a method says after its first line, without the examples."""
    return (inspect.getdoc(cls) or "").partition("\n")[2].partition("\n>>>")[0].strip()


def _type(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "anyOf" in schema:
        return " | ".join(_type(part) for part in schema["anyOf"])
    return str(schema.get("type", "any"))


def _parsed(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def _is_list(annotation: object) -> bool:
    return any(get_origin(part) is tuple for part in (annotation, *get_args(annotation)))


def _listed(value: object) -> object:
    """The same for what may be a list: text that is none in JSON is cut at its commas."""
    found = _parsed(value)
    if not isinstance(value, str) or found is None or isinstance(found, list):
        return found
    return [_parsed(part) for part in value.split(",")]


def one_line(name: str, error: ValidationError) -> str:
    """What pydantic found wrong with the declaration of `name`, on one line."""
    told = []
    for found in error.errors():
        what = found["msg"].lower().removeprefix("value error, ")
        if where := ".".join(map(str, found["loc"])):
            what = f"{where}: {what}, got {found['input']!r}"
        told.append(f"{name}: {what}")  # of fields that do not fit together all would be shown
    return "; ".join(told)
