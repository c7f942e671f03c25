"""Single values of a cell file replaced from outside: by a launch argument, a node parameter, a command line.

A key is ``section.field`` as in the file (``twin.camera_seed``, ``camera.width``). What is read is checked as if it
stood in the file. A camera profile is short for size and rate: ``848x480@6``.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from typing import Any

import yaml

Overrides = Mapping[str, Any]


def profile_overrides(text: str) -> dict[str, int]:
    """Overrides for a profile ``<width>x<height>@<rate>`` (pixels, Hz); an empty text changes nothing.

    Raises:
        ValueError: not a profile.
    """
    if not text:
        return {}
    match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)@([1-9]\d*)", text)
    if match is None:
        raise ValueError(f"a camera profile is <width>x<height>@<rate>, as 848x480@6, got {text!r}")
    return dict(zip(("camera.width", "camera.height", "camera.rate_hz"), map(int, match.groups()), strict=True))


def twin_overrides(*, scene: str = "", camera_seed: int = -1, camera_mount: str = "") -> dict[str, Any]:
    """Overrides of a twin's scene at the start and of its camera; empty text or a negative seed leave the file's."""
    given = {
        "twin.task": scene or None,
        "twin.camera_seed": camera_seed if camera_seed >= 0 else None,
        "twin.camera_mount": camera_mount or None,
    }
    return {key: value for key, value in given.items() if value is not None}


def override(raw: Mapping[str, Any], overrides: Overrides) -> dict[str, Any]:
    """A cell file's content with values replaced; ``raw`` stays as it is.

    Raises:
        ValueError: a key that is not ``section.field``, or a twin's value for a cell without twin.
    """
    changed: dict[str, Any] = dict(raw)
    for key, value in overrides.items():
        section, dot, name = key.partition(".")
        if not dot or not section or not name or "." in name:
            raise ValueError(f"an override is named section.field, as twin.camera_seed, got {key!r}")
        if section == "twin" and not isinstance(raw.get("twin"), Mapping):
            raise ValueError(f"{key} cannot be set: this cell is real hardware, it has no twin section")
        there = changed.get(section)
        changed[section] = {**(there if isinstance(there, Mapping) else {}), name: value}
    return changed


def add_override_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--set section.field=value``, which may be repeated."""
    parser.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="use this value instead of the cell file's, as twin.camera_seed=5; may be repeated",
    )


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """What was given with ``--set``; values are read as in the YAML file.

    Raises:
        ValueError: no ``=`` or no value.
    """
    parsed = {}
    for text in options.overrides:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise ValueError(f"--set takes KEY=VALUE, as twin.camera_seed=5, got {text!r}")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ValueError(f"--set {key}: {value!r} is not a YAML value: {error}") from error
    return parsed


def override_arguments(overrides: Overrides) -> list[str]:
    """The command line that ``overrides_of`` understands."""
    return [part for key, value in overrides.items() for part in ("--set", f"{key}={json.dumps(value)}")]
