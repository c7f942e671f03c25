"""Cameras of the datasets that have one: AgiBot World's head, DROID's exterior camera, and our cell's calibration."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.camera import PinholeCamera
from calibration.poses import from_euler, inverse
from calibration.storage import CalibrationFileError, parse
from prophrl_models.data.image import WHOLE, ImageRegion, policy_camera
from prophrl_models.data.registry.errors import RegistryError
from prophrl_models.data.registry.raw import RawEpisode

Array = NDArray[np.float64]

DROID_FULL_SIZE = (1280, 720)
"""Width and height of the pictures that DROID's published intrinsics belong to."""


@dataclass(frozen=True)
class EpisodeCamera:
    """A camera at the stored picture size, with a pose per frame where it moves.

    Attributes:
        camera: intrinsics, and the pose at the first frame.
        poses_T44: ``T_camera_base`` per frame, or ``None``.
    """

    camera: PinholeCamera
    poses_T44: Array | None = None


def agibot_camera(raw: RawEpisode, steps: int, size: tuple[int, int]) -> EpisodeCamera | None:
    """The head camera of an AgiBot episode; ``None`` when its parameter files were not fetched.

    The extrinsics are the camera's pose in the frame of ``state/end`` (camera to base), one per frame or one for all.

    Raises:
        RegistryError: damaged files, or another number of poses than frames.
    """
    root = raw.folder / "parameters" / str(raw.metadata["task"]) / str(raw.metadata["episode"])
    folders = [folder for folder in (root / "camera", root / "parameters" / "camera") if folder.is_dir()]
    if not folders:
        return None
    lens_file, pose_file = folders[0] / "head_intrinsic_params.json", folders[0] / "head_extrinsic_params_aligned.json"
    lens, entries = _json(lens_file), _json(pose_file)
    try:
        lens = lens["intrinsic"]
        distortion = np.array([float(lens.get(name, 0.0)) for name in ("k1", "k2", "p1", "p2", "k3")])
        entries = entries if isinstance(entries, list) else [entries]
        T_base_camera_T44 = np.tile(np.eye(4), (len(entries), 1, 1))
        for T, entry in zip(T_base_camera_T44, entries, strict=True):
            T[:3, :3] = entry["extrinsic"]["rotation_matrix"]
            T[:3, 3] = entry["extrinsic"]["translation_vector"]
        camera = PinholeCamera(
            float(lens["fx"]),
            float(lens["fy"]),
            float(lens["ppx"]),
            float(lens["ppy"]),
            width=size[1],
            height=size[0],
            distortion=distortion if distortion.any() else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise RegistryError(f"{lens_file} or {pose_file} is damaged ({error!r}); fetch them again") from error
    poses_T44 = np.stack([inverse(T) for T in T_base_camera_T44])
    if len(poses_T44) not in (1, steps):
        raise RegistryError(f"{pose_file} has {len(poses_T44)} poses for {steps} frames; leave this episode out")
    return EpisodeCamera(replace(camera, T_camera_base=poses_T44[0]), poses_T44 if len(poses_T44) > 1 else None)


def recorded_camera(
    calibration_yaml: str, where: str, size: tuple[int, int], region: ImageRegion = WHOLE
) -> EpisodeCamera | None:
    """The camera of an episode of this repository, by the calibration that was in force when it was recorded.

    Args:
        calibration_yaml: the calibration's file.
        where: the episode, for messages.
        size: height and width of the stored pictures, which show what the policy's pictures show.
        region: the part of the camera's picture that this is.

    Returns:
        None where the camera rides on the tool.

    Raises:
        RegistryError: the calibration cannot be read.
    """
    try:
        calibration = parse(calibration_yaml.encode(), f"the calibration of {where}")
    except CalibrationFileError as error:
        raise RegistryError(str(error)) from error
    if calibration.mode == "eye_in_hand":
        return None
    return EpisodeCamera(policy_camera(calibration.camera, region).resized(size[1], size[0]))


class DroidCalibration:
    """DROID's calibration release: a folder with ``intrinsics.json`` and its companions.

    ``intrinsics.json``: episode id -> camera serial -> {"cameraMatrix": [fx, cx, fy, cy]} for 1280x720 pictures;
    ``cam2base_extrinsics.json``: episode id -> serial -> [x, y, z, ex, ey, ez], camera to base, extrinsic xyz;
    ``camera_serials.json``: episode id -> {"ext1_cam_serial": ..., ...}; ``episode_id_to_path.json``: id -> folder.

    Source: KarlP/droid dataset card and calibration example; droid-dataset/droid.
    """

    def __init__(self, folder: str | Path) -> None:
        """Read the four files.

        Raises:
            RegistryError: one of them is missing or damaged.
        """
        self.folder = Path(folder)
        self._lenses = _json(self.folder / "intrinsics.json")
        self._poses = _json(self.folder / "cam2base_extrinsics.json")
        self._serials = _json(self.folder / "camera_serials.json")
        paths = _json(self.folder / "episode_id_to_path.json")
        self._ids = {str(path).strip("/"): str(number) for number, path in paths.items()}

    def camera(
        self, raw: RawEpisode, size: tuple[int, int], serial_key: str = "ext1_cam_serial"
    ) -> EpisodeCamera | None:
        """The exterior camera of an episode at a picture size; ``None`` when the release does not cover it."""
        episode = self._episode(raw)
        serial = str(self._serials.get(episode, {}).get(serial_key, ""))
        lens = self._lenses.get(episode, {}).get(serial)
        pose = self._poses.get(episode, {}).get(serial)
        if lens is None or pose is None:
            return None
        fx, cx, fy, cy = (float(number) for number in lens["cameraMatrix"])
        width, height = DROID_FULL_SIZE
        T_base_camera = from_euler(np.asarray(pose, dtype=np.float64))
        camera = PinholeCamera(fx, fy, cx, cy, width, height, inverse(T_base_camera))
        return EpisodeCamera(camera.resized(size[1], size[0]))

    def _episode(self, raw: RawEpisode) -> str:
        """Episode id of a record, whose file path ends with the folder the release lists."""
        parts = raw.texts.get("episode_metadata/file_path", "").strip("/").split("/")
        for start in range(len(parts)):
            for stop in (len(parts), len(parts) - 1):
                found = self._ids.get("/".join(parts[start:stop]))
                if found is not None:
                    return found
        return ""


@lru_cache(maxsize=4)
def droid_calibration(folder: Path) -> DroidCalibration:
    """A calibration release, read once per process (its files have hundreds of megabytes)."""
    return DroidCalibration(folder)


def _json(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except FileNotFoundError as error:
        raise RegistryError(f"no {file}; fetch the camera parameters") from error
    except json.JSONDecodeError as error:
        raise RegistryError(f"{file} is not JSON ({error}); fetch it again") from error
