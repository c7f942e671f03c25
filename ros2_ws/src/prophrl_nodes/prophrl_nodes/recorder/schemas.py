"""Message definitions as MCAP wants them: the type's text followed by the text of every type it uses.

The texts are those installed next to the compiled messages (``share/<package>/msg/<Name>.msg``), by apt or by
wheels, so a bag can be decoded on a machine that has never heard of our interfaces. The RIHS01 hash comes from
the JSON description installed beside the text (absent before ROS 2 Iron).
"""

from __future__ import annotations

import json
import os
import re
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

_SEPARATOR = "=" * 80
_PRIMITIVES = frozenset(
    {"bool", "byte", "char", "string", "wstring", "float32", "float64"}
    | {f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
)
_TYPE_NAME = re.compile(r"([a-z][a-z0-9_]*)/(?:msg/)?([A-Z][A-Za-z0-9]*)")
_FIELD_TYPE = re.compile(r"\s*([A-Za-z0-9_/]+)")


class SchemaError(LookupError):
    """A message type whose definition is not installed; the message names the type and the places searched."""


@dataclass(frozen=True)
class MessageSchema:
    """One message type: ``type_name`` as ``pkg/msg/Name``, ros2msg ``text`` with dependencies, RIHS01 hash or ""."""

    type_name: str
    text: str
    type_hash: str


def message_schema(type_name: str) -> MessageSchema:
    """Definition of a message type with everything it depends on.

    Args:
        type_name: ``pkg/msg/Name`` or ``pkg/Name``.

    Raises:
        SchemaError: malformed name, or no ``.msg`` file installed for it or for one of its fields.
    """
    match = _TYPE_NAME.fullmatch(type_name)
    if match is None:
        raise SchemaError(f"{type_name!r} is not a message type; expected the form package/msg/Name")
    return _build(match[1], match[2], install_prefixes())


def install_prefixes() -> tuple[Path, ...]:
    """Prefixes that may hold ``share/<package>``: AMENT_PREFIX_PATH, then this Python's own."""
    listed = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return tuple(dict.fromkeys([*listed, Path(sys.prefix)]))


@lru_cache(maxsize=256)
def _build(package: str, name: str, prefixes: tuple[Path, ...]) -> MessageSchema:
    text, path = _definition(package, name, prefixes)
    parts = [text]
    seen = {(package, name)}
    queue = _dependencies(text, package)
    while queue:
        dependency = queue.pop(0)
        if dependency in seen:
            continue
        seen.add(dependency)
        text, _ = _definition(*dependency, prefixes)
        parts.append(f"{_SEPARATOR}\nMSG: {'/'.join(dependency)}\n{text}")
        queue.extend(_dependencies(text, dependency[0]))
    return MessageSchema(f"{package}/msg/{name}", "\n".join(parts), _hash_beside(path, f"{package}/msg/{name}"))


def _definition(package: str, name: str, prefixes: tuple[Path, ...]) -> tuple[str, Path]:
    for prefix in prefixes:
        path = prefix / "share" / package / "msg" / f"{name}.msg"
        if path.is_file():
            return path.read_text(encoding="utf-8").rstrip("\n") + "\n", path
    raise SchemaError(
        f"no definition of {package}/msg/{name}: looked for share/{package}/msg/{name}.msg under "
        f"{', '.join(map(str, prefixes))}; install or build the package {package}"
    )


def _dependencies(text: str, package: str) -> list[tuple[str, str]]:
    """Message types named by the fields of a definition, in order; bare names belong to ``package``."""
    found = []
    for line in text.splitlines():
        match = _FIELD_TYPE.match(line.partition("#")[0])
        if match is None or match[1] in _PRIMITIVES:
            continue
        owner, _, name = match[1].rpartition("/")
        found.append((owner.partition("/")[0] or package, name))
    return found


def _hash_beside(path: Path, type_name: str) -> str:
    description = path.with_suffix(".json")
    if not description.is_file():
        return ""
    hashes = json.loads(description.read_text(encoding="utf-8")).get("type_hashes", [])
    return next((str(h["hash_string"]) for h in hashes if h["type_name"] == type_name), "")
