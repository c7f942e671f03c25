"""Training settings: dataclasses filled from YAML; a wrong key or type is refused by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import yaml

T = TypeVar("T")


class TrainingError(ValueError):
    """A dataset or configuration that cannot be trained on; the message says what to change."""


def read_settings(cls: type[T], path: str | Path) -> T:
    """Read a YAML file with fields of the dataclass ``cls``; what is left out keeps its default.

    Raises:
        TrainingError: no such file, not YAML, or a key or type that does not belong.
    """
    path = Path(path)
    if not path.is_file():
        raise TrainingError(f"no training configuration at {path}; config/train/ holds some")
    try:
        raw = yaml.safe_load(path.read_text()) or {}
    except yaml.YAMLError as error:
        raise TrainingError(f"{path} is not YAML: {error}") from error
    return settings_from(cls, raw, path.name)


def settings_from(cls: type[T], raw: Any, where: str) -> T:
    """A dataclass from nested mappings; unknown keys and wrong types are errors that name the field.

    Raises:
        TrainingError: see ``read_settings``.
    """
    assert is_dataclass(cls)
    names = [f.name for f in fields(cls)]
    if not isinstance(raw, Mapping):
        raise TrainingError(f"{where} must be a mapping with some of the keys {', '.join(names)}, got {raw!r}")
    hints = get_type_hints(cls)
    values: dict[str, Any] = {}
    for key, value in raw.items():
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise TrainingError(f"{where}: unknown key {key!r}, known are {', '.join(names)}{hint}")
        values[key] = _convert(hints[key], value, f"{where}.{key}")
    return cls(**values)


def _convert(hint: Any, value: Any, where: str) -> Any:
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise TrainingError(f"{where} must be one of {', '.join(map(str, get_args(hint)))}, got {value!r}")
        return value
    if is_dataclass(hint):
        return settings_from(hint, value, where)  # type: ignore[arg-type]
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, bool) and type(value) is not hint:
        raise TrainingError(f"{where} must be of type {hint.__name__}, got {value!r}")
    return tuple(value) if isinstance(value, list) else value
