"""Settings by name: files in ``config/KIND`` of the installation, and of the source tree what is newer."""

from __future__ import annotations

from pathlib import Path

NO_PRESETS = ("ablation",)
"""Plans of runs with changed settings, which lie beside the presets."""


class PresetError(ValueError):
    """There is no preset of that name; the message lists those there are."""


def preset_file(kind: str, name: str) -> Path:
    """The settings file of a preset.

    Args:
        kind: folder of ``config``: "prophet", "rl" or "train".

    Raises:
        PresetError: there is none of that name.
    """
    found = {stem: file for stem, file in _files(kind).items() if stem not in NO_PRESETS}
    if name not in found:
        raise PresetError(f"no preset {name!r}; choose one of {', '.join(found)}, or give a file with --config")
    return found[name]


def plan_file(kind: str, name: str) -> Path:
    """A file that lies beside the presets and is none, such as the plan of an ablation.

    Raises:
        PresetError: there is none of that name.
    """
    found = _files(kind)
    if name not in found:
        raise PresetError(f"config/{kind} has no {name}.yaml; run make setup, or give a file")
    return found[name]


def _files(kind: str) -> dict[str, Path]:
    from prophrl_nodes.launch_files.packages import SOURCE_TREE, share_folder

    # A file that is newer than the last set-up is in the source tree only.
    folders = [root / "config" / kind for root in (share_folder("prophrl"), SOURCE_TREE)]
    return {file.stem: file for folder in reversed(folders) for file in sorted(folder.glob("*.yaml"))}
