"""A request's free-form settings turned into a frozen record of typed fields.

A model declares its settings as a dataclass whose fields all have defaults; `parse_settings` fills it from the
`--set key=value` pairs and refuses what the record does not know. Fields may be `bool`, `int`, `float`, `str`,
`Literal[...]` or unions of these.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, fields
from difflib import get_close_matches
from types import UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from seggeo.errors import ConfigError

Record = TypeVar("Record")


def parse_settings(record: type[Record], values: Mapping[str, Any], *, model: str) -> Record:
    """A `record` filled from `values`; fields that are not named keep their defaults.

    Args:
        record: A dataclass whose fields all have defaults; its `__post_init__` may refuse values with `bad_setting`.
        values: JSON values by name.
        model: The model's name, for the message.

    Raises:
        ConfigError: A name the record does not know, or a value of the wrong type; the message lists every setting.
    """
    hints = get_type_hints(record)
    for name in values:
        if name not in hints:
            near = get_close_matches(str(name), hints, n=1)
            raise ConfigError(
                what=f"{model} has no setting called {name!r}",
                why=f"its settings and defaults are: {describe(record)}",
                mend=f"did you mean {near[0]!r}?" if near else f"leave out --set {name}=...",
            )
    return record(**{name: _typed(record, name, value, hints[name], model) for name, value in values.items()})


def bad_setting(record: type, name: str, value: Any, *, model: str, why: str) -> ConfigError:
    """The refusal of one value; `why` says what it may be."""
    return ConfigError(
        what=f"{model} cannot use {name}={value!r}",
        why=f"{name} {why}",
        mend=f"use --set {name}={_default(record, name)} (the default); all settings: {describe(record)}",
    )


def describe(record: type) -> str:
    """`name=default` of every field, comma separated."""
    return ", ".join(f"{f.name}={_default(record, f.name)}" for f in fields(record))


def to_values(settings: Any) -> dict[str, Any]:
    """JSON values that `parse_settings` turns back into the same record."""
    return asdict(settings)


def _default(record: type, name: str) -> str:
    found = next(f for f in fields(record) if f.name == name)
    value = found.default if found.default is not MISSING else None
    return str(value).lower() if isinstance(value, bool) else str(value)


def _typed(record: type, name: str, value: Any, hint: Any, model: str) -> Any:
    for option in _options(hint):
        if isinstance(option, tuple):
            if value in option and type(value) in map(type, option):
                return value
        elif _fits(value, option):
            return option(value)
    raise bad_setting(record, name, value, model=model, why=f"is {' or '.join(map(_word, _options(hint)))}")


def _options(hint: Any) -> list[Any]:
    """The plain types of a hint, and a tuple of values for each Literal."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return [option for part in get_args(hint) for option in _options(part)]
    return [get_args(hint)] if origin is Literal else [hint]


def _fits(value: Any, kind: type) -> bool:
    if kind is bool or isinstance(value, bool):
        return kind is bool and isinstance(value, bool)
    if kind is float:
        return isinstance(value, (int, float)) and abs(value) != float("inf") and value == value
    if kind is int:
        return isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    return isinstance(value, kind)


def _word(option: Any) -> str:
    if isinstance(option, tuple):
        return ", ".join(map(str, option))
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text"}.get(option, str(option))
