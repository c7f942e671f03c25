"""Settings changed by dotted name: ``network.blocks=4`` on a command line, ``update.beta: 0.01`` in a plan."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from prophrl_models.training.settings import TrainingError


def parse_overrides(arguments: Sequence[str]) -> dict[str, Any]:
    """``key=value`` arguments as dotted name to value; values are read as YAML, ``1e-3`` as a number too.

    Raises:
        TrainingError: an argument that is no key=value, or a value that is not YAML.
    """
    found: dict[str, Any] = {}
    for argument in arguments:
        key, equals, text = argument.partition("=")
        if not equals or not key.strip():
            raise TrainingError(f"{argument!r} changes no setting; give KEY=VALUE, such as network.blocks=4")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise TrainingError(f"{argument!r}: the value is not YAML ({error})") from error
        found[key.strip()] = _number(value)
    return found


def overridden(settings: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of nested settings with values at dotted names replaced; whether the names exist is not checked here.

    Raises:
        TrainingError: a name leads through something that is no group of settings.
    """
    result: dict[str, Any] = copy.deepcopy(dict(settings))
    for name, value in changes.items():
        *groups, last = name.split(".")
        place = result
        for depth, group in enumerate(groups):
            inner = place.setdefault(group, {})
            if not isinstance(inner, Mapping):
                raise TrainingError(
                    f"{name}: {'.'.join(groups[: depth + 1])} is {inner!r}, it holds no further settings"
                )
            place[group] = dict(inner)
            place = place[group]
        place[last] = value
    return result


def plain_settings(config: Any) -> dict[str, Any]:
    """A settings dataclass as YAML and JSON can hold it, readable by ``settings.settings_from``."""
    return {name: _plain(value) for name, value in dataclasses.asdict(config).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, tuple | list) else value


def _number(value: Any) -> Any:
    """YAML 1.1 takes 1e-3 for a word."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
