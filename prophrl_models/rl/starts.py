"""Where rollouts begin: the first picture, state and instruction of logged episodes.

A start needs nothing of what happened afterwards, so failed demonstrations and play serve as well as successes. Some
starts are held out by a hash of their source: the same ones in every run on the same data with the same seed, whatever
order the episodes come in. A policy that was reinforced before keeps the sides its starts had then (``StartSplit``):
what it was trained on is never held out, or its evaluation would be flattered, and what was held out stays so.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from calibration.camera import PinholeCamera
from calibration.storage import load_camera
from prophrl_models.data.bag import CALIBRATION_FILE
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, policy_camera
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.training.settings import TrainingError


@dataclass(frozen=True)
class StartSplit:
    """Sources of the starts that a policy was trained on, and of those that were held out, in all its runs so far."""

    training: frozenset[str] = frozenset()
    held_out: frozenset[str] = frozenset()

    def with_run(self, training: Sequence[Prompt], held_out: Sequence[Prompt]) -> StartSplit:
        """These and those of one more run."""
        return StartSplit(
            self.training | {start.source for start in training}, self.held_out | {start.source for start in held_out}
        )

    def to_json(self) -> dict[str, list[str]]:
        """Plain values, as a policy's provenance holds them."""
        return {"training": sorted(self.training), "held_out": sorted(self.held_out)}

    @staticmethod
    def of_provenance(provenance: Mapping[str, Any]) -> StartSplit:
        """What a checkpoint says of its starts; empty where it was never reinforced, or does not say."""
        said = provenance.get("starts_split") or {"training": [], "held_out": []}
        return StartSplit(frozenset(said["training"]), frozenset(said["held_out"]))


def joined_starts(
    datasets: Sequence[Dataset],
    *,
    instructions: Sequence[str] = (),
    height: int = POLICY_HEIGHT,
    width: int = POLICY_WIDTH,
) -> list[Prompt]:
    """The starts of several datasets, in their order; arguments as for ``dataset_starts``.

    Raises:
        TrainingError: no start is left, or an episode is in two of the datasets.
    """
    _check_known(datasets, instructions)
    where: dict[str, Dataset] = {}
    for dataset in datasets:
        for row in dataset.table:
            if row.episode_id in where and where[row.episode_id] is not dataset:
                both = f"{where[row.episode_id].folder} and in {dataset.folder}"
                raise TrainingError(
                    f"episode {row.episode_id!r} is in {both}; it would count twice, and could be trained on and held "
                    "out at once: build one of them without it"
                )
            where[row.episode_id] = dataset
    starts = [start for dataset in datasets for start in _starts(dataset, None, instructions, height, width)]
    return _some(starts, _folders(datasets))


def dataset_starts(
    dataset: Dataset,
    *,
    camera: PinholeCamera | None = None,
    instructions: Sequence[str] = (),
    height: int = POLICY_HEIGHT,
    width: int = POLICY_WIDTH,
) -> list[Prompt]:
    """One start for each episode, in the dataset's order.

    Args:
        camera: the camera of the policy images; each episode's own calibration when omitted, None in the prompt
            where an episode has none.
        instructions: only episodes with one of these; all when empty.
        height, width: size of the policy's images; pictures are area-resized where it is not the dataset's.

    Raises:
        TrainingError: no episode is left, or the synchroniser marked the first step of all of them as not valid.
    """
    _check_known([dataset], instructions)
    return _some(_starts(dataset, camera, instructions, height, width), str(dataset.folder))


def split_starts(
    starts: Sequence[Prompt],
    held_out: int,
    seed: int,
    earlier: StartSplit = StartSplit(),
) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held-out) starts, both in the given order.

    Starts with a side in ``earlier`` keep it. Of the new ones the same share as there is held out, more where
    ``held_out`` asks for more, and never more than half; ``held_out`` 0 holds none of them out.

    Raises:
        TrainingError: fewer than two starts would remain for training.
    """
    kept_away = {i for i, start in enumerate(starts) if start.source in earlier.held_out}
    fresh = [i for i in range(len(starts)) if i not in kept_away and starts[i].source not in earlier.training]
    wanted = held_out
    if held_out and (earlier.training or earlier.held_out):
        share = len(earlier.held_out) / (len(earlier.held_out) + len(earlier.training))
        wanted = min(len(fresh) // 2, max(held_out - len(kept_away), math.ceil(share * len(fresh))))
    if held_out and len(starts) - len(kept_away) - wanted < 2:
        raise TrainingError(
            f"{len(starts)} starts cannot give {len(kept_away) + wanted} held-out ones and keep two for training; set "
            f"watch.held_out to at most {max(0, len(starts) - 2)} or record more initial states"
        )
    ranked = sorted(fresh, key=lambda i: (_rank(starts[i], seed), i))
    kept_away |= set(ranked[:wanted])
    training = [start for i, start in enumerate(starts) if i not in kept_away]
    return training, [start for i, start in enumerate(starts) if i in kept_away]


def starts_hash(starts: Sequence[Prompt]) -> str:
    """SHA-256 of everything a policy can see of the starts."""
    digest = hashlib.sha256()
    for start in starts:
        digest.update(np.ascontiguousarray(start.image_HW3).tobytes())
        digest.update(np.asarray(start.state_7, dtype=np.float32).tobytes())
        digest.update(f"{start.instruction}\n{start.source}\n".encode())
        if start.camera is not None:
            digest.update(start.camera.K.tobytes() + start.camera.T_camera_base.tobytes())
    return digest.hexdigest()


def draw_starts(total: int, count: int, seed: int) -> list[int]:
    """``count`` of ``total`` start indices: none twice before all were used once."""
    generator = np.random.default_rng(seed)
    rounds = [generator.permutation(total) for _ in range(math.ceil(count / total))]
    return [int(i) for i in np.concatenate(rounds)[:count]] if rounds else []


def _starts(
    dataset: Dataset, camera: PinholeCamera | None, instructions: Sequence[str], height: int, width: int
) -> list[Prompt]:
    starts = []
    for position, row in enumerate(dataset.table):
        if instructions and row.instruction not in instructions:
            continue
        episode = dataset[position]
        if not len(episode.state_T7) or not bool(episode.valid_T[0]):
            continue  # a picture or state from another moment would begin a story that never was
        view = camera or _camera_of(dataset, position)
        image = np.array(episode.color_THW3[0])
        if image.shape[:2] != (height, width):
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA), dtype=np.uint8)
        starts.append(
            Prompt(
                image_HW3=image,
                state_7=np.asarray(episode.state_T7[0], dtype=np.float32),
                instruction=row.instruction,
                camera=None if view is None else view.resized(width, height),
                source=row.episode_id,
            )
        )
    return starts


def _check_known(datasets: Sequence[Dataset], instructions: Sequence[str]) -> None:
    known = {instruction for dataset in datasets for instruction in dataset.instructions}
    unknown = sorted(set(instructions) - known)
    if unknown:
        raise TrainingError(
            f"{_folders(datasets)} has no episode with {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, sorted(known)))}"
        )


def _some(starts: list[Prompt], where: str) -> list[Prompt]:
    if not starts:
        raise TrainingError(f"no episode of {where} has a usable first step; look at 'prophrl dataset check' for gaps")
    return starts


def _folders(datasets: Sequence[Dataset]) -> str:
    return ", ".join(str(dataset.folder) for dataset in datasets)


def _rank(start: Prompt, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{start.source}".encode(), digest_size=16).digest()


def _camera_of(dataset: Dataset, position: int) -> PinholeCamera | None:
    file = dataset.folder / dataset.table[position].folder / CALIBRATION_FILE
    return policy_camera(load_camera(file), dataset.image_region) if file.is_file() else None
