"""From an episode as stored to a ``GeneralEpisode``, by the dataset's specification: one path for all datasets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from calibration.poses import ActionConvention
from prophrl_models.data.image import WHOLE
from prophrl_models.data.registry.actions import measured_motion, next_opening, poses, rotations, states
from prophrl_models.data.registry.cameras import DroidCalibration, EpisodeCamera, agibot_camera, recorded_camera
from prophrl_models.data.registry.errors import MissingKeyError, RegistryError
from prophrl_models.data.registry.frames import FittedImages
from prophrl_models.data.registry.general import EFFECTORS, GeneralEpisode
from prophrl_models.data.registry.raw import CALIBRATION, IMAGE_REGION, STEP_VALID, Outline, RawEpisode
from prophrl_models.data.registry.resolution import ResolutionRule
from prophrl_models.data.registry.spec_types import CameraData, Columns, DatasetSpec, Effector, Format, Layout

Array = NDArray[np.float64]


def general_episode(
    raw: RawEpisode,
    spec: DatasetSpec,
    layouts: Sequence[Layout],
    *,
    rate_hz: float | None = None,
    convention: ActionConvention | None = None,
    resolution: ResolutionRule | None = None,
    calibration: DroidCalibration | None = None,
    camera: EpisodeCamera | None = None,
) -> GeneralEpisode:
    """Interpret one stored episode.

    Args:
        raw: what a reader found.
        spec: the dataset it is from.
        layouts: the layouts of the reader's format; the first whose keys the episode has is taken.
        rate_hz: rate the files state; the specification's where ``None``.
        convention: another convention than the dataset's own; its actions are then differences of measured poses.
        resolution: another target size; the paper's where ``None``.
        calibration: DROID's calibration release.
        camera: a known camera at the stored picture size, e.g. of the own cell's calibration.

    Raises:
        MissingKeyError: no layout fits; the message names the first missing key, what there is, and what to do.
        RegistryError: values that contradict the specification.
    """
    layout = _fitting(raw, layouts)
    wanted = ActionConvention(convention or spec.convention)
    pictures = raw.pictures(layout.images)
    first = layout.skip_first
    try:
        arms = [_Arm(raw, effector, first, spec.gripper_from) for effector in layout.effectors]
        steps = len(arms[0].opening_T)
        if any(len(arm.opening_T) != steps for arm in arms) or len(pictures) - first < steps:
            lengths = [len(arm.opening_T) for arm in arms]
            raise RegistryError(f"states of {lengths} frames, {len(pictures) - first} pictures; leave this episode out")
        state_TN7 = np.zeros((steps, EFFECTORS, 7))
        action_TN7 = np.zeros((steps, EFFECTORS, 7))
        for row, arm in enumerate(arms):
            state_TN7[:, row] = states(arm.T_base_tcp_T44, arm.opening_T)
        if layout.recorded is not None and wanted is spec.convention:
            action_TN7[:, 0], known = _recorded(raw, layout, spec, steps)
        else:
            known = steps - 1
            for row, arm in enumerate(arms):
                motion = measured_motion(arm.T_base_tcp_T44, wanted)
                action_TN7[:, row] = np.column_stack([motion, arm.next_opening_T])
    except MissingKeyError:
        raise
    except RegistryError as error:
        if raw.where in str(error):
            raise
        raise RegistryError(f"{raw.where}: {error}") from error
    rule = resolution or spec.resolution
    found = camera or _published_camera(raw, spec, steps, pictures.size, calibration)
    return GeneralEpisode(
        images_THW3=FittedImages(pictures, rule, first, steps, layout.rotate_180, layout.swap_red_blue),
        state_TN7=state_TN7.astype(np.float32),
        action_TN7=action_TN7.astype(np.float32),
        effector_mask_N=np.arange(EFFECTORS) < len(arms),
        instruction=raw.text(layout.instruction),
        convention=wanted,
        rate_hz=float(rate_hz or spec.rate_hz),
        camera=None if found is None else rule.camera(found.camera),
        source=spec.name,
        episode_id=raw.episode_id,
        actions_known=known,
        camera_poses_T44=None if found is None or found.poses_T44 is None else found.poses_T44[first : first + steps],
        step_valid_T=_step_valid(raw, first, steps),
    )


def _step_valid(raw: RawEpisode, first: int, steps: int) -> NDArray[np.bool_] | None:
    """What the recording says of its steps [T]; ``None`` where it says nothing."""
    stored = raw.metadata.get(STEP_VALID)
    return None if stored is None else np.asarray(stored, np.bool_)[first : first + steps]


class _Arm:
    """Poses and openings of one end-effector.

    Attributes:
        T_base_tcp_T44: measured poses.
        opening_T: opening at each frame: measured, or where that is not stored the one last commanded.
        next_opening_T: opening that belongs to each action.
    """

    def __init__(self, raw: RawEpisode, effector: Effector, first: int, gripper_from: str) -> None:
        def column(columns: Columns) -> Array:
            return raw.column(columns.key, columns.picked, columns.width)[first:]

        position = column(effector.position)
        stored = np.zeros((len(position), 0)) if effector.orientation is None else column(effector.orientation)
        self.T_base_tcp_T44 = poses(position, rotations(stored, effector.representation))
        measured = None
        if effector.measured is not None:
            columns, mapping = effector.measured
            measured = mapping.opening(column(columns))
        if effector.commanded is not None and (measured is None or gripper_from == "commanded"):
            columns, command = effector.commanded
            commanded = command.opening(raw.column(columns.key, columns.picked))[first:]
            self.opening_T = np.append(commanded[:1], commanded[:-1]) if measured is None else measured
            self.next_opening_T = commanded
        elif measured is not None:
            self.opening_T, self.next_opening_T = measured, next_opening(measured)
        else:
            raise RegistryError(f"the layout names no gripper for {effector.position.key!r}")


def _recorded(raw: RawEpisode, layout: Layout, spec: DatasetSpec, steps: int) -> tuple[Array, int]:
    """Recorded actions [T, 7] of a single arm, and how many of them are data."""
    stored = raw.metadata.get("convention")
    if stored is not None and stored is not spec.convention:
        raise RegistryError(
            f"actions are {stored.name}, {spec.name} is {spec.convention.name}; build the dataset in that convention"
        )
    assert layout.recorded is not None
    columns, commanded = layout.recorded.columns, layout.effectors[0].commanded
    assert commanded is not None, "a layout with recorded actions names the gripper command, too"
    first, offset = layout.skip_first, int(raw.metadata.get("action_offset", layout.action_offset))
    motion = raw.column(columns.key, columns.picked)[first + offset :] * np.asarray(layout.recorded.scale)
    gripper = commanded[1].opening(raw.column(commanded[0].key, commanded[0].picked))[first + offset :]
    action = np.column_stack([motion, gripper])[:steps]
    bad = np.flatnonzero(~np.isfinite(action).all(axis=1))
    if len(bad):
        raise RegistryError(f"the action at frame {bad[0]} is not finite; leave this episode out")
    known = min(len(action), int(raw.metadata.get("actions_known", steps)))
    hold = np.zeros((steps - len(action), 7))
    hold[:, 6] = action[-1, 6]
    return np.concatenate([action, hold]), known


def episode_frames(outline: Outline, layouts: Sequence[Layout]) -> int | None:
    """How many frames ``general_episode`` would give; None where only reading the episode can tell."""
    for layout in layouts:
        if _missing(outline, layout):
            continue
        rows = {outline.columns[effector.position.key] for effector in layout.effectors}
        pictures = next(outline.frames[key] for key in layout.images if key in outline.frames)
        steps = min(rows) - layout.skip_first
        return steps if len(rows) == 1 and 0 < steps <= pictures - layout.skip_first else None
    return None


def _fitting(raw: RawEpisode, layouts: Sequence[Layout]) -> Layout:
    """The first layout whose keys the episode has; with none, the first one's missing key is named."""
    for layout in layouts:
        if not _missing(raw, layout):
            return layout
    layout = layouts[0]
    raw.pictures(layout.images)
    for key in _missing(raw, layout):
        raw.column(key)
    raise RegistryError(f"{raw.where}: no known layout fits")


def _missing(raw: RawEpisode | Outline, layout: Layout) -> list[str]:
    """Keys a layout names that the episode lacks."""
    keys = []
    for effector in layout.effectors:
        used = [effector.position, effector.orientation]
        used += [pair[0] for pair in (effector.measured, effector.commanded) if pair is not None]
        keys += [columns.key for columns in used if columns is not None]
    if layout.recorded is not None:
        keys.append(layout.recorded.columns.key)
    missing = [key for key in dict.fromkeys(keys) if key not in raw.columns]
    if not any(key in raw.frames for key in layout.images):
        missing.append(layout.images[0])
    return missing


def _published_camera(
    raw: RawEpisode, spec: DatasetSpec, steps: int, size: tuple[int, int], calibration: DroidCalibration | None
) -> EpisodeCamera | None:
    if spec.camera is CameraData.FILES and "task" in raw.metadata:
        return agibot_camera(raw, steps, size)
    if spec.camera is CameraData.RECORD and raw.metadata.get(CALIBRATION):
        region = raw.metadata.get(IMAGE_REGION, WHOLE)
        return recorded_camera(raw.metadata[CALIBRATION], raw.where, size, region)
    if spec.camera is CameraData.CALIBRATION and calibration is not None:
        return calibration.camera(raw, size)
    return None


def layouts_of(spec: DatasetSpec, fmt: Format) -> tuple[Layout, ...]:
    """The layouts of one format.

    Raises:
        RegistryError: the dataset is not published in it; the message lists the formats it is published in.
    """
    found = tuple(layout for layout in spec.layouts if layout.format is fmt)
    if not found:
        raise RegistryError(f"{spec.name} is read from {', '.join(spec.formats)}, this folder is {fmt.value}")
    return found


def with_scale(spec: DatasetSpec, scale: tuple[float, float, float, float, float, float]) -> DatasetSpec:
    """A specification whose recorded actions are scaled differently, e.g. LIBERO's rotations by 0.05 as the authors do.

    Raises:
        RegistryError: the dataset's actions are not recorded ones.
    """
    if all(layout.recorded is None for layout in spec.layouts):
        raise RegistryError(f"{spec.name}: actions are differences of measured poses, there is no scale to change")
    changed = tuple(
        layout if layout.recorded is None else replace(layout, recorded=replace(layout.recorded, scale=scale))
        for layout in spec.layouts
    )
    return replace(spec, layouts=changed)
