"""Rollouts on disk: written while they run, complete or absent, read back without loading their frames.

    frames.npy       uint8 [B, T, H, W, 3], memory-mapped
    rollouts.npz     states_BT7, actions_BSCD, valid_BT, steps_B, seeds_B
    rollouts.json    per row: instruction, source, state and camera at the start; format and rate
    prompts.npy      uint8 [B, H', W', 3], the prompts' own pictures
    videos/0000.mp4  for eyes; H.264, lossy

What ``choose`` returned beside the actions (``Imagined.extras``) may be anything and is not stored.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from calibration.camera import PinholeCamera
from prophrl_models.data.files import publish_tree, write_json
from prophrl_models.prophet.imagined import Image, Imagined, Prompt
from prophrl_models.trials.video import write_video

FORMAT = 1
FRAMES, NUMBERS, TABLE, PROMPTS = "frames.npy", "rollouts.npz", "rollouts.json", "prompts.npy"
_COLUMNS = ("states_BT7", "actions_BSCD", "valid_BT", "steps_B", "seeds_B")


class RolloutFilesError(ValueError):
    """A folder that cannot be written or read; the message says what to do."""


class RolloutFiles:
    """Frames of rollouts that are being made, in a file that appears under its name when they are complete.

    Attributes:
        frames_BTHW3: writable, memory-mapped: what is written here need not stay in memory.
    """

    def __init__(self, folder: str | Path, shape_BTHW3: tuple[int, ...]) -> None:
        self.folder = Path(folder)
        if self.folder.exists() and any(self.folder.iterdir()):
            raise RolloutFilesError(f"{self.folder} is not empty; choose a new folder for these rollouts")
        self._temporary = self.folder.with_name(f".{self.folder.name}.{os.getpid()}.partial")
        shutil.rmtree(self._temporary, ignore_errors=True)
        self._temporary.mkdir(parents=True)
        self.frames_BTHW3: Image = np.lib.format.open_memmap(
            self._temporary / FRAMES, mode="w+", dtype=np.uint8, shape=shape_BTHW3
        )

    def finish(self, imagined: Imagined, rate_hz: float, videos: bool) -> Imagined:
        """Write everything else, publish the folder, and give the rollouts with their frames on disk."""
        assert isinstance(self.frames_BTHW3, np.memmap)
        self.frames_BTHW3.flush()
        np.savez(self._temporary / NUMBERS, **{name: getattr(imagined, name) for name in _COLUMNS})
        np.save(self._temporary / PROMPTS, np.stack([prompt.image_HW3 for prompt in imagined.prompts]))
        rows = [_row(prompt) for prompt in imagined.prompts]
        write_json(self._temporary / TABLE, {"format": FORMAT, "rate_hz": rate_hz, "rows": rows})
        if videos:
            (self._temporary / "videos").mkdir()
            for row in range(len(imagined)):
                write_video(self._temporary / "videos" / f"{row:04d}.mp4", imagined.video(row), rate_hz)
        publish_tree(self._temporary, self.folder)
        self.frames_BTHW3 = _map(self.folder)
        return Imagined(
            **{
                **{name: getattr(imagined, name) for name in (*_COLUMNS, "extras", "prompts")},
                "frames_BTHW3": self.frames_BTHW3,
            }
        )

    def discard_unfinished(self) -> None:
        """Remove what was not published; does nothing after ``finish``."""
        shutil.rmtree(self._temporary, ignore_errors=True)


def read_rollouts(folder: str | Path) -> Imagined:
    """Rollouts from a folder that ``RolloutFiles`` wrote, without extras; frames stay on disk.

    Raises:
        RolloutFilesError: a file is missing, damaged or does not fit the others.
    """
    folder = Path(folder)
    try:
        table = json.loads((folder / TABLE).read_text())
        if table["format"] != FORMAT:
            raise RolloutFilesError(f"{folder / TABLE} has format {table['format']!r}, this version reads {FORMAT}")
        with np.load(folder / NUMBERS) as stored:
            columns = {name: stored[name] for name in _COLUMNS}
        images = np.load(folder / PROMPTS)
        frames = _map(folder)
        prompts = tuple(_prompt(raw, image) for raw, image in zip(table["rows"], images, strict=True))
    except RolloutFilesError:
        raise
    except (OSError, KeyError, TypeError, ValueError, EOFError) as error:
        raise RolloutFilesError(f"{folder} does not hold complete rollouts ({error}); imagine them again") from error
    if frames.shape[:2] != columns["valid_BT"].shape or len(prompts) != len(frames):
        raise RolloutFilesError(f"{folder}: files of different rollouts are mixed; imagine them again")
    return Imagined(frames_BTHW3=frames, extras=(), prompts=prompts, **columns)


def _map(folder: Path) -> Image:
    frames: Image = np.load(folder / FRAMES, mmap_mode="r")
    return frames


def _row(prompt: Prompt) -> dict[str, Any]:
    camera = prompt.camera
    return {
        "instruction": prompt.instruction,
        "source": prompt.source,
        "state_7": [float(value) for value in prompt.state_7],
        "camera": None
        if camera is None
        else {
            **{name: getattr(camera, name) for name in ("fx", "fy", "cx", "cy", "width", "height")},
            "T_camera_base": np.asarray(camera.T_camera_base).tolist(),
            "distortion": None if camera.distortion is None else np.asarray(camera.distortion).tolist(),
        },
    }


def _prompt(raw: dict[str, Any], image_HW3: Image) -> Prompt:
    camera = raw["camera"]
    if camera is not None:
        distortion = None if camera["distortion"] is None else np.asarray(camera["distortion"])
        camera = PinholeCamera(
            **{**camera, "T_camera_base": np.asarray(camera["T_camera_base"]), "distortion": distortion}
        )
    state_7 = np.asarray(raw["state_7"], np.float32)
    return Prompt(image_HW3, state_7, raw["instruction"], camera, raw["source"])
