"""Where rollouts begin: the first picture, state and instruction of logged episodes.

A start needs nothing of what happened afterwards, so failed demonstrations and play serve as well as successes. Some
starts are held out by a hash of their source: the same ones in every run on the same data with the same seed, whatever
order the episodes come in.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import cv2
import numpy as np

from calibration.camera import PinholeCamera
from calibration.storage import load_camera
from prophrl_models.data.bag import CALIBRATION_FILE
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.image import POLICY_HEIGHT, POLICY_WIDTH, policy_camera
from prophrl_models.prophet.rollout import Prompt
from prophrl_models.training.settings import TrainingError


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
    unknown = sorted(set(instructions) - set(dataset.instructions))
    if unknown:
        raise TrainingError(
            f"{dataset.folder} has no episode with {', '.join(map(repr, unknown))}; it has "
            f"{', '.join(map(repr, dataset.instructions))}"
        )
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
    if not starts:
        raise TrainingError(
            f"no episode of {dataset.folder} has a usable first step; look at 'prophrl dataset check' for gaps"
        )
    return starts


def split_starts(starts: Sequence[Prompt], held_out: int, seed: int) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held-out) starts, both in the given order.

    Raises:
        TrainingError: fewer than two starts would remain for training.
    """
    if held_out and len(starts) - held_out < 2:
        raise TrainingError(
            f"{len(starts)} starts cannot give {held_out} held-out ones and keep two for training; set watch.held_out "
            f"to at most {max(0, len(starts) - 2)} or record more initial states"
        )
    ranked = sorted(range(len(starts)), key=lambda i: (_rank(starts[i], seed), i))
    kept_away = set(ranked[:held_out])
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


def _rank(start: Prompt, seed: int) -> bytes:
    return hashlib.blake2b(f"{seed}\n{start.source}".encode(), digest_size=16).digest()


def _camera_of(dataset: Dataset, position: int) -> PinholeCamera | None:
    file = dataset.folder / dataset.table[position].folder / CALIBRATION_FILE
    return policy_camera(load_camera(file)) if file.is_file() else None
