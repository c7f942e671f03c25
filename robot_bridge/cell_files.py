"""From the name of a cell (or a path) to its file, wherever the house is installed."""

from __future__ import annotations

import difflib
import os
import sys
from pathlib import Path

from robot_bridge.cell import CellConfig, CellError, load_cell
from robot_bridge.cell_overrides import Overrides


def cell_folders() -> list[Path]:
    """Where named cell files are looked for, in order: source tree, then the share folders of the ROS prefixes."""
    prefixes = [Path(prefix) for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    folders = [Path(__file__).resolve().parents[1] / "config" / "cells"]
    folders += [prefix / "share" / "prophrl" / "config" / "cells" for prefix in (*prefixes, Path(sys.prefix))]
    return [folder for folder in dict.fromkeys(folders) if folder.is_dir()]


def find_cell(cell: str | Path) -> Path:
    """Path of a cell file given by path or by name (the file's name without ``.yaml``).

    Raises:
        CellError: nothing of that name; the message lists the names there are.
    """
    path = Path(cell).expanduser()
    if path.suffix in (".yaml", ".yml") or path.parent != Path("."):
        if path.is_file():
            return path
        raise CellError(f"no cell file at {path}; pass the name of a cell ({_listed()}) or the path of a YAML file")
    named = _named()
    if str(cell) in named:
        return named[str(cell)]
    near = difflib.get_close_matches(str(cell), named, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise CellError(f"no cell named {str(cell)!r}, there are {_listed()}; a path ending in .yaml works too{hint}")


def open_cell(
    cell: str | Path, host: str = "", *, camera_profile: str = "", overrides: Overrides | None = None
) -> CellConfig:
    """Load the cell of that name or path; the other arguments are those of ``load_cell``.

    Raises:
        CellError: not found, or not a valid cell file.
    """
    return load_cell(find_cell(cell), host=host, camera_profile=camera_profile, overrides=overrides)


def _named() -> dict[str, Path]:
    found: dict[str, Path] = {}
    for folder in cell_folders():
        for path in sorted(folder.glob("*.yaml")):
            found.setdefault(path.stem, path)
    return found


def _listed() -> str:
    return ", ".join(sorted(_named())) or "no cell files installed"
