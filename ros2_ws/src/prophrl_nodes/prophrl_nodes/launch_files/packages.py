"""Where packages keep their files and executables: in the ament index, or in the source tree they run from."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import calibration
from prophrl_nodes.launch_files.errors import LaunchError, did_you_mean

SOURCE_TREE = Path(calibration.__file__).resolve().parents[1]
OURS = "prophrl_nodes"


def prefixes() -> list[Path]:
    """Installation prefixes in order of precedence."""
    listed = [Path(p) for p in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]
    return list(dict.fromkeys([*listed, Path(sys.prefix)]))


def share_folder(package: str) -> Path:
    """``share/<package>``; the source tree itself for the package ``prophrl`` when it is not installed.

    Raises:
        LaunchError: no such package.
    """
    for prefix in prefixes():
        if (prefix / "share" / "ament_index" / "resource_index" / "packages" / package).exists():
            return prefix / "share" / package
    if package == "prophrl" and (SOURCE_TREE / "launch").is_dir():
        return SOURCE_TREE
    raise LaunchError(f"package {package!r} is not installed; looked in {', '.join(map(str, prefixes()))}")


def node_command(package: str, executable: str) -> list[str]:
    """Command that runs a package's executable: its file under ``lib/<package>``, or for ours its module.

    Raises:
        LaunchError: no such executable; names those there are.
    """
    found: set[str] = set()
    for prefix in prefixes():
        folder = prefix / "lib" / package
        if os.access(folder / executable, os.X_OK) and (folder / executable).is_file():
            return [str(folder / executable)]
        if folder.is_dir():
            found.update(p.name for p in folder.iterdir() if p.is_file() and os.access(p, os.X_OK))
    if package == OURS:
        if _own_module(executable):
            return [sys.executable, "-m", f"{OURS}.nodes.{executable}"]
        found.update(_own_modules())
    listed = ", ".join(sorted(found)) or "none; is the package installed?"
    raise LaunchError(
        f"package {package!r} has no executable {executable!r}; it has {listed}{did_you_mean(executable, found)}"
    )


def launch_files() -> dict[str, Path]:
    """The launch files that come with the house, by name without ``.launch.yaml``."""
    folders = [SOURCE_TREE / "launch", *(p / "share" / "prophrl" / "launch" for p in prefixes())]
    found: dict[str, Path] = {}
    for folder in folders:
        for path in sorted(folder.glob("*.launch.yaml")):
            found.setdefault(path.name.removesuffix(".launch.yaml"), path)
    return found


def find_launch_file(name: str) -> Path:
    """A launch file by path or by name.

    Raises:
        LaunchError: neither; names those there are.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path.resolve()
    known = launch_files()
    short = path.name.removesuffix(".launch.yaml")
    if path.parent == Path(".") and short in known:
        return known[short]
    listed = ", ".join(known) or "none installed"
    raise LaunchError(f"no launch file {name!r}; there are {listed}, or give a path{did_you_mean(short, known)}")


def _own_module(name: str) -> bool:
    return name.isidentifier() and importlib.util.find_spec(f"{OURS}.nodes.{name}") is not None


def _own_modules() -> list[str]:
    nodes = importlib.util.find_spec(f"{OURS}.nodes")
    folders = nodes.submodule_search_locations if nodes else None
    return [p.stem for folder in folders or [] for p in Path(folder).glob("[a-z]*.py")]
