"""Training rows for policies whose data do not fit into memory: one observation and the chunk that follows it.

``RowSource`` is the door for other data (mixtures, published datasets); ``DatasetRows`` is our own dataset. Every row
is checked before it enters a batch, so that a bad number is refused with its episode, step and column.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.episode import ACTION_DIM, ACTION_NAMES, STATE_DIM, STATE_NAMES, Episode
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH
from prophrl_models.training.frames import EpisodeRows, FrameOptions, episode_rows
from prophrl_models.training.settings import TrainingError
from prophrl_models.training.state_source import check_state_source, training_states


@dataclass(frozen=True)
class Row:
    """One row.

    Attributes:
        image_HW3: RGB uint8.
        state_7: float32 ``[x y z ex ey ez g]`` (m, rad, opening fraction).
        instruction: what to do, in words; never empty.
        actions_CHD: float32 ``[dx dy dz drx dry drz g]`` in the source's convention, environment units.
        valid: False: the row is not to be imitated (it counts with weight 0).
        name: where it comes from, for error messages.
    """

    image_HW3: NDArray[np.uint8]
    state_7: NDArray[np.float32]
    instruction: str
    actions_CHD: NDArray[np.float32]
    valid: bool = True
    name: str = ""


@dataclass(frozen=True)
class RowFormat:
    """What all rows of a source have in common; compared with a policy's spec before training starts."""

    convention: ActionConvention
    control_rate_hz: float
    chunk: int
    action_dim: int = ACTION_DIM
    state_dim: int = STATE_DIM
    image_height: int = POLICY_HEIGHT
    image_width: int = POLICY_WIDTH
    state_source: str = "measured"


class RowSource(Protocol):
    """Rows by number. ``row`` is called from several threads at once and must not depend on the order of calls."""

    @property
    def format(self) -> RowFormat: ...

    def __len__(self) -> int: ...

    def row(self, i: int) -> Row: ...


class DatasetRows:
    """The rows of a dataset folder: idle frames cut and chunks padded with rest at an episode's end, as in ``frames``.

    Numbers are read once and stay in memory (about 600 bytes a row), images stay on disk until they are asked for. Rows
    near gaps in the recorded streams are left out. ``FrameOptions.event_weight`` becomes whole copies of a row.
    """

    def __init__(self, dataset: Dataset, options: FrameOptions, state_source: str = "measured") -> None:
        """Read all numbers of a dataset.

        Raises:
            TrainingError: no usable row, or an episode without an instruction.
            DatasetError: damaged files.
        """
        check_state_source(state_source)
        nameless = [row.episode_id for row in dataset.table if not row.instruction.strip()]
        if nameless:
            raise TrainingError(
                f"{len(nameless)} of {len(dataset)} episodes have no instruction (the first: {nameless[0]!r}); a "
                "policy with a language model learns nothing from that: give them one and build the dataset again"
            )
        self.dataset = dataset
        self.format = RowFormat(dataset.convention, dataset.control_rate_hz, options.chunk, state_source=state_source)
        self._episodes: list[EpisodeRows] = []
        self._instructions: list[str] = []
        self._images: dict[int, Episode] = {}
        self._lock = threading.Lock()
        index = []
        for number, episode in enumerate(dataset):
            try:
                rows = episode_rows(episode, options)
            except ValueError as error:
                raise TrainingError(f"{dataset.folder}: {error}") from error
            states = training_states(rows.state_T7, rows.chunk_TCD[:, 0], state_source, dataset.convention)
            rows = replace(rows, state_T7=states)
            self._episodes.append(rows)
            self._instructions.append(episode.instruction)
            copies = np.round(rows.sampling_T).astype(np.int64) * (rows.weight_T > 0)
            steps = np.repeat(np.arange(len(copies)), copies)
            index.append(np.stack([np.full(len(steps), number), steps], axis=1))
        self._index_N2 = np.concatenate(index).astype(np.int32) if index else np.zeros((0, 2), np.int32)
        if not len(self._index_N2):
            raise TrainingError(
                f"no step of {dataset.folder} can be trained on: all of them lie near gaps in the streams"
            )

    def __len__(self) -> int:
        return len(self._index_N2)

    def row(self, i: int) -> Row:
        """Row number ``i``, not checked (``stream`` does that for every source)."""
        number, step = (int(value) for value in self._index_N2[i])
        rows, frame = self._episodes[number], int(self._episodes[number].frame_T[step])
        return Row(
            np.array(self._episode(number).color_THW3[frame]),
            rows.state_T7[step],
            self._instructions[number],
            rows.chunk_TCD[step],
            name=f"episode {self.dataset.table[number].episode_id!r}, step {frame}",
        )

    def _episode(self, number: int) -> Episode:
        with self._lock:
            if number not in self._images:
                self._images[number] = self.dataset[number]
            return self._images[number]


def check_row(row: Row, format: RowFormat) -> None:
    """Refuse a row that must not reach a policy.

    Raises:
        TrainingError: wrong size, empty instruction, or a number that is not finite; names row and column.
    """
    wanted = {
        "image": ((format.image_height, format.image_width, 3), row.image_HW3.shape),
        "state": ((format.state_dim,), row.state_7.shape),
        "actions": ((format.chunk, format.action_dim), row.actions_CHD.shape),
    }
    for what, (expected, found) in wanted.items():
        if expected != found:
            raise TrainingError(
                f"{row.name}: {what} of shape {found}, expected {expected}; convert the dataset, or leave it out"
            )
    if row.image_HW3.dtype != np.uint8:
        raise TrainingError(f"{row.name}: image of type {row.image_HW3.dtype}, expected uint8; convert the dataset")
    if not row.instruction.strip():
        raise TrainingError(f"{row.name}: the instruction is empty; say what the demonstration does, or leave it out")
    for what, names, values in (
        ("state", STATE_NAMES, row.state_7[None]),
        ("action", ACTION_NAMES, row.actions_CHD),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            step, column = (int(v) for v in bad[0])
            label = names[column] if column < len(names) else str(column)
            where = f"column {label} of its {what}" + (f" {step} steps ahead" if what == "action" else "")
            raise TrainingError(
                f"{row.name}: {where} is {values[step, column]}; leave the episode out or repair the dataset"
            )
