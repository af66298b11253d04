"""Values of settings from any source, a command line, a TOML file or Python, as the fields of their records want them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from numbers import Real
from pathlib import Path
from typing import Any, get_args, get_type_hints

from seggeo.errors import ConfigError


def converted(values: Mapping[str, Any], records: tuple[type, ...], command: str = "segment") -> dict[str, Any]:
    """Values by field name as their fields want them; names that no record has keep what they are.

    Args:
        values: Texts, numbers (numpy's too), lists or paths; None where its field may be None.
        records: Dataclasses that have the fields.
        command: Of seggeo, whose help a refusal points to.

    Raises:
        ConfigError: A value that means nothing there.
    """
    kinds = _kinds(records)
    try:
        return {n: _converted(n, _plain(value), *kinds[n]) if n in kinds else value for n, value in values.items()}
    except _Unfit as unfit:
        raise refused(unfit.name, unfit.value, unfit.why, command) from None


@cache
def _kinds(records: tuple[type, ...]) -> dict[str, tuple[Any, bool]]:
    """Type of every field's values, and whether it may be None."""
    hints = {name: hint for record in records for name, hint in get_type_hints(record).items()}
    plain = {name: [kind for kind in get_args(hint) if kind is not type(None)] or [hint] for name, hint in hints.items()}
    return {name: (options[0], type(None) in get_args(hints[name])) for name, options in plain.items()}


def _converted(name: str, value: Any, kind: Any, may_be_none: bool) -> Any:
    if value is None and may_be_none:
        return None
    match name:
        case "bands":
            return tuple(_number(name, v, int) for v in _split(value))
        case "format":
            return tuple(dict.fromkeys(_typed(name, v, str) for v in _split(value)))
        case "channel":
            return tuple(_typed(name, str(v) if type(v) is int else v, str) for v in _split(value))
        case "set":
            return pairs(value)
        case "smooth":
            return None if value == "auto" else _number(name, value, float)
        case "spacing" | "thresholds":
            return tuple(_number(name, v, float) for v in _split(value))
        case "simplify":
            return _number(name, value.strip().removesuffix("m") if isinstance(value, str) else value, float)
    if kind in (int, float):
        return _number(name, value, kind)
    if kind in (str, Path):
        return kind(_typed(name, value, str))
    return _typed(name, value, kind) if kind is bool else value


def pairs(value: Any) -> dict[str, Any]:
    """`key=value` strings, or a table, as JSON values.

    Raises:
        ConfigError: A text of another form, or a value that is none of JSON's.
    """
    if isinstance(value, Mapping):
        given = {str(key): _plain(inner) for key, inner in value.items()}
        try:
            json.dumps(given)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                what=f"set {' '.join(str(value).split())}", why=f"settings of a model are JSON values: {error}",
                mend="give numbers, texts, true, false and lists of these",
            ) from error  # fmt: skip
        return given
    found: dict[str, Any] = {}
    for item in value if isinstance(value, (list, tuple)) else [value]:
        key, sign, text = str(item).partition("=")
        if not sign or not key:
            raise ConfigError(what=f"--set {item}", why="a setting is written key=value", mend="for example --set min_area=20")
        try:
            found[key] = json.loads(text)
        except ValueError:
            found[key] = text
    return found


class _Unfit(Exception):
    """A value that its field cannot have."""

    def __init__(self, name: str, value: Any, why: str) -> None:
        super().__init__(name, value, why)
        self.name, self.value, self.why = name, value, why


def refused(name: str, value: Any, why: str, command: str = "segment") -> ConfigError:
    """The refusal of a value that its option, or field, cannot have."""
    shown = " ".join(str(value).split())
    return ConfigError(what=f"--{name.replace('_', '-')} {shown}", why=why, mend=f"see seggeo {command} --help")


def _plain(value: Any) -> Any:
    """A value with Python's own numbers and lists in place of numpy's."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return value


def _split(value: Any) -> list[Any]:
    """Parts between commas of a text, or of each text in a list."""
    items = value if isinstance(value, list) else [value]
    parts = [part for item in items for part in (item.split(",") if isinstance(item, str) else [item])]
    return [part.strip() if isinstance(part, str) else part for part in parts]


def _number(name: str, value: Any, kind: type) -> Any:
    if type(value) is not bool and isinstance(value, (str, Real)):
        with suppress(ValueError, OverflowError):
            number = float(value)
            if kind is float:
                return number
            if number == int(number):
                return int(number)
    raise _Unfit(name, value, f"{value!r} is not {'a number' if kind is float else 'a whole number'}")


def _typed(name: str, value: Any, kind: type) -> Any:
    if kind is str and isinstance(value, os.PathLike):
        value = os.fspath(value)
    if isinstance(value, kind):
        return value
    shown = " ".join(repr(value).split())
    raise _Unfit(name, value, "it is true or false, without quotes" if kind is bool else f"it is a text, not {shown}")
