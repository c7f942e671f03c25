"""``prophrl dataset check NAME FOLDER``: reads a few episodes of a published dataset and says what was understood."""

from __future__ import annotations

import argparse
from pathlib import Path

from prophrl_nodes.cli.output import print_json


def register(check: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    check.add_argument("name", metavar="NAME", help="dataset as 'prophrl dataset sources' lists it")
    check.add_argument("folder", type=Path, metavar="FOLDER", help="where it lies; nothing is downloaded")
    check.add_argument("--episodes", type=int, default=3, metavar="N", help="episodes to read (default 3)")
    check.add_argument("--split", default="train", help="split of an RLDS folder (default train)")
    check.add_argument("--calibration", type=Path, metavar="RELEASE", help="folder of DROID's calibration release")
    check.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl dataset check``."""
    from prophrl_models.data.registry.errors import RegistryError
    from prophrl_models.data.registry.summary import summarise

    if options.episodes < 1:
        raise RegistryError(f"--episodes must be at least 1, got {options.episodes}")
    found = summarise(
        options.name,
        options.folder,
        count=options.episodes,
        split=options.split,
        calibration=options.calibration,
    )
    if options.json:
        print_json(found.to_json())
        return 0
    print(f"{found.title}: {found.episodes} episodes in {found.folder} ({found.format})")
    print(
        f"{found.convention} at {found.rate_hz:g} Hz, {found.effectors} end-effector(s), pictures to {found.resolution}"
    )
    print(f"gripper {found.gripper}; camera {found.camera}")
    for episode in found.read:
        first = ", ".join(f"{value:.2f}" for value in episode.opening_first)
        low, high = episode.opening_range
        print(f"\n{episode.episode_id}: {episode.instruction or '(no instruction)'}")
        print(f"  {episode.frames} frames, {episode.duration_s:.1f} s, stored {episode.stored_size[0]}x", end="")
        print(f"{episode.stored_size[1]}, read {episode.image_shape[0]}x{episode.image_shape[1]}")
        print(f"  opening at first {first} (0 closed, 1 open), range {low:.2f} .. {high:.2f}")
        print(f"  step {episode.step_mm[0]:.1f} mm (at most {episode.step_mm[1]:.1f}), ", end="")
        print(f"{episode.step_deg[0]:.2f} deg (at most {episode.step_deg[1]:.2f})")
        low_m, high_m = ("(" + ", ".join(f"{v:.2f}" for v in corner) + ")" for corner in episode.workspace_m)
        print(f"  workspace {low_m} .. {high_m} m")
        print(f"  camera {episode.camera}")
    return 0
