"""What a settings class says about its keys: name, type, default, meaning, range and effect, each once.

A section of the configuration is a dataclass whose fields are made by `setting`. From it follow `--help`, the range
checks, and the list of what a resumed run must keep. Left out: parsing and types, which are Hydra's and OmegaConf's.
"""

import dataclasses
import math
import operator
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from bertlens.errors import InputError

# what a key changes: the numbers of every training step; what a run leaves behind; or neither
Affects = Literal["steps", "results", "nothing"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Key:
    """What is known about one key besides its name, type and default."""

    meaning: str
    choices: tuple[Any, ...] = ()
    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    affects: Affects = "results"

    def range_problem(self, value: Any) -> str | None:
        """Return what is wrong with a value, or None. None values and values of other types have no range."""
        if self.choices and value not in self.choices:
            return f"choose one of {', '.join(map(str, self.choices))}"
        if isinstance(value, float) and not math.isfinite(value):
            return "give a finite number"
        if isinstance(value, str) and not value.strip():
            return "empty; give it a value or leave it out"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        bounds = (
            (self.at_least, operator.ge, "at least"),
            (self.above, operator.gt, "above"),
            (self.at_most, operator.le, "at most"),
            (self.below, operator.lt, "below"),
        )
        if all(bound is None or holds(value, bound) for bound, holds, _ in bounds):
            return None
        return "must be " + " and ".join(f"{word} {bound}" for bound, _, word in bounds if bound is not None)


def setting(default: Any = dataclasses.MISSING, meaning: str = "", **known: Any) -> Any:
    """Return a dataclass field that carries a `Key`. A mutable default is copied for each instance."""
    key = {"key": Key(meaning=meaning, **known)}
    if isinstance(default, dict | list):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=key)
    return dataclasses.field(default=default, metadata=key)


def section(kind: Any) -> Any:
    """Return a dataclass field that holds a section of its own."""
    return dataclasses.field(default_factory=kind)


def generated(name: str, fields: list[tuple[str, Any, Any]], *, module: str, bases: tuple[type, ...] = ()) -> type:
    """Return a settings class made of (name, type, `setting`). It can be pickled if `module` holds it as `name`."""
    made = dataclasses.make_dataclass(name, fields, bases=bases, kw_only=True)
    made.__module__ = module
    return made


def overriding(
    settings: type, *names: str, otherwise: str, bases: tuple[type, ...] = (), name: str, module: str
) -> type:
    """Return a settings class with some keys of another one, each optional: null means `otherwise`."""
    hints = typing.get_type_hints(settings)
    fields = [
        (field.name, hints[field.name] | None, _optional(_key(field), otherwise))
        for field in dataclasses.fields(settings)
        if field.name in names
    ]
    return generated(name, fields, bases=bases, module=module)


def _optional(key: Key, otherwise: str) -> Any:
    meaning = f"{key.meaning.partition('; null:')[0]}; null: {otherwise}"
    return dataclasses.field(default=None, metadata={"key": dataclasses.replace(key, meaning=meaning)})


def _key(field: dataclasses.Field[Any]) -> Key:
    key: Key = field.metadata["key"]
    return key


def _section_type(field: dataclasses.Field[Any]) -> type | None:
    """Return the settings class that a field holds, or None for a plain key."""
    if "key" in field.metadata:
        return None
    kind: Any = field.default_factory
    assert isinstance(kind, type)
    return kind


def keys(schema: type, prefix: str = "") -> dict[str, Key]:
    """Return every key of a settings class by its dotted name."""
    found: dict[str, Key] = {}
    for field in dataclasses.fields(schema):
        inner = _section_type(field)
        found |= {prefix + field.name: _key(field)} if inner is None else keys(inner, f"{prefix}{field.name}.")
    return found


def type_names(schema: type, prefix: str = "") -> dict[str, str]:
    """Return the type of every key as --help shows it: `int`, `str or null`."""
    found: dict[str, str] = {}
    for field in dataclasses.fields(schema):
        inner = _section_type(field)
        if inner is None:
            found[prefix + field.name] = _type_name(typing.get_type_hints(schema)[field.name])
        else:
            found |= type_names(inner, f"{prefix}{field.name}.")
    return found


def _type_name(kind: Any) -> str:
    if isinstance(kind, types.UnionType) or typing.get_origin(kind) is typing.Union:
        return " or ".join("null" if part is type(None) else _type_name(part) for part in typing.get_args(kind))
    return "any" if kind is Any else str(getattr(kind, "__name__", kind))


def values(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Return the value of every key by its dotted name."""
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        found |= values(value, f"{name}.") if "key" not in field.metadata else {name: value}
    return found


def problems(settings: Any, prefix: str = "") -> Iterator[str]:
    """Yield a line for each value out of its range, then those that a class's own `conflicts()` finds.

    `conflicts(self, prefix)` may be defined by a settings class for what several of its keys have wrong together.
    """
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), prefix + field.name
        if "key" not in field.metadata:
            yield from problems(value, f"{name}.")
        elif problem := _key(field).range_problem(value):
            yield f"{name}={value}: {problem}"
    if hasattr(settings, "conflicts"):
        yield from settings.conflicts(prefix)


def check(settings: Any, prefix: str = "") -> None:
    """Raise one `InputError` that lists every problem of the settings."""
    if found := list(problems(settings, prefix)):
        raise InputError("; ".join(found))
