"""Reads the two HDF5 layouts among the paper's datasets: LIBERO's demonstrations and AgiBot World's episodes.

LIBERO (robomimic style)                       AgiBot World
<task>_demo.hdf5                               task_info/task_<task>.json
  data.attrs: problem_info, env_args           observations/<task>/<episode>/videos/head_color.mp4
  data/demo_<i>/actions [T, 7]                 parameters/<task>/<episode>/camera/head_{intrinsic_params,
  data/demo_<i>/obs/agentview_rgb [T,H,W,3]                                             extrinsic_params_aligned}.json
  data/demo_<i>/obs/ee_states [T, 6]           proprio_stats/<task>/<episode>/proprio_stats.h5
  data/demo_<i>/obs/gripper_states [T, 2]        state/end/{position,orientation}, state/effector/position, timestamp

Source: Lifelong-Robot-Learning/LIBERO scripts/create_dataset.py; agibot-world/AgiBotWorld dataset cards.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prophrl_models.data.registry.errors import CorruptFileError, MissingKeyError, RegistryError
from prophrl_models.data.registry.frames import FrameSource, Hdf5Frames, VideoFrames
from prophrl_models.data.registry.raw import Outline, RawEpisode

AGIBOT_RATE_HZ = 30.0
"""AgiBot's videos and states are aligned at this rate (dataset card, lerobot conversions)."""
_SCENE = re.compile(r"^[A-Z_]+_SCENE\d+_")


class LiberoSource:
    """A folder of ``*_demo.hdf5`` files, or one such file; an episode is one demonstration."""

    format = "libero-hdf5"
    rate_hz: float | None = None

    def __init__(self, folder: str | Path) -> None:
        """List the demonstrations.

        Raises:
            RegistryError: no such file, or a damaged one.
        """
        self.folder = Path(folder)
        files = [self.folder] if self.folder.is_file() else sorted(self.folder.rglob("*.hdf5"))
        if not files:
            raise RegistryError(f"no *.hdf5 in {self.folder}; pass a folder of LIBERO demonstrations")
        self._demos = [(file, demo) for file in files for demo in _demos(file)]

    def __len__(self) -> int:
        return len(self._demos)

    def episode_id(self, index: int) -> str:
        """File and demonstration."""
        file, demo = self._demos[index]
        return f"{file.stem}/{demo}"

    def recorded_id(self, index: int) -> str | None:
        """None: others recorded them."""
        return None

    def outline(self, index: int) -> Outline | None:
        """From the shapes of the arrays."""
        file, demo = self._demos[index]
        with _opened(file) as stored:
            shapes = {key: data.shape for key, data in _datasets(stored[f"data/{demo}"])}
        columns = {key: int(shape[0]) for key, shape in shapes.items() if len(shape) in (1, 2)}
        return Outline(columns, {key: int(shape[0]) for key, shape in shapes.items() if len(shape) == 4})

    def episode(self, index: int) -> RawEpisode:
        """One demonstration; pictures stay in the file until they are looked at."""
        file, demo = self._demos[index]
        with _opened(file) as stored:
            group = stored[f"data/{demo}"]
            columns: dict[str, NDArray[Any]] = {}
            frames: dict[str, FrameSource] = {}
            for key, data in _datasets(group):
                if data.ndim == 4:
                    frames[key] = Hdf5Frames(file, f"data/{demo}/{key}", data.shape)
                elif data.ndim in (1, 2):
                    columns[key] = np.asarray(data)
            attributes = stored["data"].attrs
            # openvla's regenerated files carry no attributes, and their observations precede the action.
            regenerated = "env_args" not in attributes and "problem_info" not in attributes
            instruction = _libero_instruction(attributes.get("problem_info"), file)
        return RawEpisode(
            columns,
            frames,
            {"language_instruction": instruction},
            self.episode_id(index),
            f"{file}, {demo}",
            self.folder,
            {"action_offset": 0} if regenerated else {},
        )


class AgibotSource:
    """The root folder of AgiBot World, or of the part of it that was fetched."""

    format = "agibot-h5"

    def __init__(self, folder: str | Path) -> None:
        """List the episodes whose states are there.

        Raises:
            RegistryError: no ``proprio_stats`` with episodes in the folder.
        """
        self.folder = Path(folder)
        found = self.folder.glob("proprio_stats/*/*/proprio_stats.h5")
        self._episodes = sorted((file.parent.parent.name, file.parent.name) for file in found)
        if not self._episodes:
            raise RegistryError(
                f"no proprio_stats/<task>/<episode>/proprio_stats.h5 in {self.folder}; unpack the archives there first"
            )
        self._tasks: dict[str, dict[str, dict[str, Any]]] = {}

    @property
    def rate_hz(self) -> float | None:
        """As the dataset card states it."""
        return AGIBOT_RATE_HZ

    def __len__(self) -> int:
        return len(self._episodes)

    def episode_id(self, index: int) -> str:
        """Task and episode number."""
        return "/".join(self._episodes[index])

    def recorded_id(self, index: int) -> str | None:
        """None: others recorded them."""
        return None

    def outline(self, index: int) -> Outline | None:
        """From the shapes of the states and the names of the videos.

        Raises:
            RegistryError: no HDF5 file, or no instructions.
        """
        task, number = self._episodes[index]
        self._task(task)
        with _opened(self._file(index)) as stored:
            shapes = {key: data.shape for key, data in _datasets(stored) if key.startswith("state/")}
        columns = {key: int(shape[0]) for key, shape in shapes.items() if shape and shape[0]}
        if len(set(columns.values())) != 1:
            return None  # reading it says what is wrong
        videos = (self.folder / "observations" / task / number / "videos").glob("*.mp4")
        return Outline(columns, dict.fromkeys(sorted(video.stem for video in videos), min(columns.values())))

    def episode(self, index: int) -> RawEpisode:
        """One episode.

        Raises:
            CorruptFileError: no HDF5 file, or unequal lengths.
        """
        task, number = self._episodes[index]
        file = self._file(index)
        with _opened(file) as stored:
            columns = {
                key: np.asarray(data) for key, data in _datasets(stored) if data.ndim and key.startswith("state/")
            }
        # A key that is absent on this robot is there with length 0.
        columns = {key: data for key, data in columns.items() if len(data)}
        lengths = {len(data) for data in columns.values()}
        if len(lengths) != 1:
            sizes = ", ".join(f"{key} {len(data)}" for key, data in sorted(columns.items()))
            raise CorruptFileError(f"{file}: states of unequal length ({sizes or 'none'}); leave this episode out")
        steps = lengths.pop()
        videos = sorted((self.folder / "observations" / task / number / "videos").glob("*.mp4"))
        frames = {video.stem: VideoFrames(video, 0.0, AGIBOT_RATE_HZ, steps) for video in videos}
        entry = self._task(task).get(number, {})
        return RawEpisode(
            {key: data.reshape(steps, -1) for key, data in columns.items()},
            frames,
            {"task_name": str(entry.get("task_name", ""))},
            self.episode_id(index),
            str(file),
            self.folder,
            {"task": task, "episode": number, "task_info": entry},
        )

    def _file(self, index: int) -> Path:
        task, number = self._episodes[index]
        return self.folder / "proprio_stats" / task / number / "proprio_stats.h5"

    def _task(self, task: str) -> dict[str, dict[str, Any]]:
        if task not in self._tasks:
            file = self.folder / "task_info" / f"task_{task}.json"
            try:
                entries = json.loads(file.read_text())
            except FileNotFoundError as error:
                raise RegistryError(f"no {file}, which holds the instructions; fetch task_info, too") from error
            except json.JSONDecodeError as error:
                raise RegistryError(f"{file} is not JSON ({error}); fetch it again") from error
            self._tasks[task] = {str(entry["episode_id"]): entry for entry in entries}
        return self._tasks[task]


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    import h5py

    try:
        stored = h5py.File(file, "r")
    except FileNotFoundError as error:
        raise RegistryError(f"no {file}; fetch it") from error
    except OSError as error:
        raise CorruptFileError(f"{file} is no complete HDF5 file ({error}); fetch it again") from error
    with stored:
        yield stored


def _demos(file: Path) -> list[str]:
    with _opened(file) as stored:
        if "data" not in stored:
            raise MissingKeyError("data", str(file), stored, "This is no LIBERO (robomimic) file.")
        return sorted(stored["data"], key=lambda name: int(name.rsplit("_", 1)[-1]))


def _datasets(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every array below a group with its path."""
    for name, item in group.items():
        path = f"{prefix}{name}"
        if hasattr(item, "items"):
            yield from _datasets(item, f"{path}/")
        else:
            yield path, item


def _libero_instruction(problem_info: Any, file: Path) -> str:
    """From the file's attributes, else from its name as LIBERO itself derives it."""
    if problem_info is not None:
        text = json.loads(problem_info).get("language_instruction", "")
        return str(text if isinstance(text, str) else " ".join(text)).strip()
    words = _SCENE.sub("", file.stem.removesuffix("_demo"))
    return words.replace("_", " ")
