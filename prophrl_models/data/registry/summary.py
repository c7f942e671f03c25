"""What the registry understood of a dataset's first episodes, for people to compare with what they know of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from prophrl_models.data.registry.general import GeneralEpisode
from prophrl_models.data.registry.sources import RegisteredDataset


@dataclass(frozen=True)
class EpisodeSummary:
    """One episode in numbers.

    Attributes:
        opening_first: opening of each real end-effector at the first frame; most demonstrations start open, near 1.
        opening_range: least and greatest opening.
        step_mm: median and greatest translation of an action's step, millimetres (first end-effector).
        step_deg: the same for its rotation numbers' norm, degrees.
        workspace_m: least and greatest x, y, z of the first end-effector, metres.
        camera: focal lengths and pose in words, or that there is none.
    """

    episode_id: str
    instruction: str
    frames: int
    actions_known: int
    duration_s: float
    image_shape: tuple[int, ...]
    stored_size: tuple[int, int]
    opening_first: tuple[float, ...]
    opening_range: tuple[float, float]
    step_mm: tuple[float, float]
    step_deg: tuple[float, float]
    workspace_m: tuple[tuple[float, ...], tuple[float, ...]]
    camera: str


@dataclass(frozen=True)
class DatasetSummary:
    """A folder as the registry reads it."""

    name: str
    title: str
    folder: str
    format: str
    episodes: int
    rate_hz: float
    convention: str
    effectors: int
    gripper: str
    resolution: str
    camera: str
    read: tuple[EpisodeSummary, ...]
    open_questions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def summarise(
    name: str, folder: str | Path, *, count: int = 3, split: str = "train", calibration: Path | None = None
) -> DatasetSummary:
    """Read the first ``count`` episodes of a folder, with one picture of each.

    Raises:
        RegistryError: anything that does not follow the layout.
    """
    dataset = RegisteredDataset(name, folder, split=split, calibration=calibration)
    spec = dataset.spec
    read = tuple(_episode(dataset, index) for index in range(min(count, len(dataset))))
    return DatasetSummary(
        name=spec.name,
        title=spec.title,
        folder=str(folder),
        format=dataset.source.format,
        episodes=len(dataset),
        rate_hz=dataset.rate_hz,
        convention=spec.convention.name,
        effectors=spec.effectors,
        gripper=spec.gripper,
        resolution=str(spec.resolution),
        camera=spec.camera.value,
        read=read,
        open_questions=spec.open_questions,
    )


def _episode(dataset: RegisteredDataset, index: int) -> EpisodeSummary:
    episode = dataset[index]
    picture = episode.images_THW3[0]
    real = np.flatnonzero(episode.effector_mask_N)
    openings = episode.state_TN7[:, real, 6]
    motion = episode.action_TN7[: episode.actions_known, 0]
    step_mm = 1e3 * np.linalg.norm(motion[:, :3], axis=1)
    step_deg = np.degrees(np.linalg.norm(motion[:, 3:6], axis=1))
    position = episode.state_TN7[:, 0, :3]
    source = getattr(episode.images_THW3, "stream", None)
    return EpisodeSummary(
        episode_id=episode.episode_id,
        instruction=episode.instruction,
        frames=len(episode),
        actions_known=episode.actions_known,
        duration_s=episode.duration_s,
        image_shape=picture.shape,
        stored_size=picture.shape[:2] if source is None else source.size,
        opening_first=tuple(float(value) for value in openings[0]),
        opening_range=(float(openings.min()), float(openings.max())),
        step_mm=(float(np.median(step_mm)), float(step_mm.max())),
        step_deg=(float(np.median(step_deg)), float(step_deg.max())),
        workspace_m=(tuple(map(float, position.min(axis=0))), tuple(map(float, position.max(axis=0)))),
        camera=_camera(episode),
    )


def _camera(episode: GeneralEpisode) -> str:
    camera = episode.camera
    if camera is None:
        return "none: scalar action stream only"
    pixels, depth = camera.project(episode.state_TN7[:1, 0, :3])
    seen = f"first end-effector at pixel ({pixels[0, 0]:.0f}, {pixels[0, 1]:.0f}), {depth[0]:.2f} m away"
    moving = ", moves" if episode.camera_poses_T44 is not None else ""
    return f"fx {camera.fx:.1f}, fy {camera.fy:.1f} at {camera.width}x{camera.height}{moving}; {seen}"
