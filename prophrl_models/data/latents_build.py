"""Makes the latents of a dataset: pictures and action frames go through a codec once, episode by episode."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from calibration.action_frame import PLUMB_STYLE, STYLE, render_action_frames
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import from_euler
from prophrl_models.data.dataset import Dataset
from prophrl_models.data.dataset_format import json_sha256
from prophrl_models.data.episode import Episode
from prophrl_models.data.files import array_sha256, publish_folder, write_json
from prophrl_models.data.image import Image
from prophrl_models.data.latents import (
    CACHE_FILE,
    EPISODE_FILE,
    EPISODES,
    FORMAT,
    GROUP,
    STEPS_FILE,
    LatentCache,
    LatentError,
    Latents,
    LatentSpec,
    usable_anchors,
)
from prophrl_models.data.windows import WindowRule

ENCODE_AT_ONCE = 32
"""Groups of frames (or 1/8 of that in windows) that go through the codec together."""

Tell = Callable[[int, int], None]
"""(episodes done, episodes in all)"""


class LatentCodec(Protocol):
    """What of a codec is needed here; see ``prophet.codec``."""

    @property
    def groupwise(self) -> bool: ...

    def encode(self, frames_BTHW3: Tensor) -> Tensor: ...

    def encode_history(self, frames_BTHW3: Tensor) -> Tensor: ...

    def encode_groups(self, frames_B4HW3: Tensor) -> Tensor: ...

    def parameters(self) -> Iterator[nn.Parameter]: ...


def resized(images_THW3: Image, height: int, width: int) -> Image:
    """Pictures [T, H, W, 3] resized by area to [T, height, width, 3]."""
    if images_THW3.shape[1:3] == (height, width):
        return np.ascontiguousarray(images_THW3)
    result = np.empty((len(images_THW3), height, width, 3), np.uint8)
    for picture, small in zip(images_THW3, result, strict=True):
        cv2.resize(np.ascontiguousarray(picture), (width, height), dst=small, interpolation=cv2.INTER_AREA)
    return result


def episode_states(episode: Episode) -> NDArray[np.float32]:
    """States [F, 7] at all frames of an episode, the one after its last action included."""
    return np.concatenate([episode.state_T7, episode.final.state_7[None]])


def shown_openings(episode: Episode) -> NDArray[np.float32]:
    """Openings [F] that action frames show: the commanded ones, and the measured one at the first frame.

    In imagination the state is the integral of the actions, so all that can be drawn there is what was commanded.
    """
    return np.concatenate([episode.state_T7[:1, 6], episode.action_T7[:, 6]])


def episode_action_frames(episode: Episode, camera: PinholeCamera, style: ActionFrameStyle = STYLE) -> Image:
    """Action frames [F, H, W, 3] of an episode in the pixels of ``camera``."""
    poses = np.stack([from_euler(state[:6]) for state in episode_states(episode).astype(np.float64)])
    return render_action_frames(poses, shown_openings(episode), camera, style=style)


def build_latents(
    dataset: Dataset,
    codec: LatentCodec,
    spec: LatentSpec,
    folder: str | Path,
    *,
    cameras: Sequence[PinholeCamera | None],
    bfloat16: bool = False,
    tell: Tell = lambda done, total: None,
) -> LatentCache:
    """Encode a dataset, or open what was encoded before; can be interrupted at any time.

    Args:
        folder: holds caches; this one gets a folder in it named by its content.
        cameras: for each episode, the camera of the policy images (240 x 320); needed for action frames.
        bfloat16: compute in bfloat16: half the time, and an error of a hundredth of the latents' deviation, a tenth of
            the noise that codecs are trained to bear. Caches made either way are the same cache.

    Raises:
        LatentError: an episode has no camera though action frames are wanted, or the codec gives NaN.
    """
    if spec.action_frames:
        check_cameras(dataset, cameras)
    parts = {
        "format": FORMAT,
        "dataset_hash": dataset.content_hash,
        "episodes": len(dataset),
        "groupwise": codec.groupwise,
        "spec": asdict(spec),
        "cameras": [_camera_digest(camera) for camera in cameras] if spec.action_frames else [],
    }
    home = Path(folder) / json_sha256(_key(parts))[:16]
    (home / EPISODES).mkdir(parents=True, exist_ok=True)
    if not (home / CACHE_FILE).is_file():
        write_json(home / CACHE_FILE, parts)
    for position in range(len(dataset)):
        final = home / EPISODES / f"{position:06d}"
        if not (final / EPISODE_FILE).is_file():
            with torch.autocast(_device(codec).type, torch.bfloat16, enabled=bfloat16):
                _encode_episode(dataset[position], codec, spec, cameras[position], final)
        tell(position + 1, len(dataset))
    return LatentCache(home, rule=spec.rule)


def check_cameras(dataset: Dataset, cameras: Sequence[PinholeCamera | None]) -> None:
    """Refuse a dataset whose action frames cannot be drawn.

    Raises:
        LatentError: an episode has no camera.
    """
    if len(cameras) != len(dataset):
        raise LatentError(f"{len(cameras)} cameras for {len(dataset)} episodes; give one (or None) for each")
    if blind := [i for i, camera in enumerate(cameras) if camera is None]:
        raise LatentError(
            f"{len(blind)} of {len(dataset)} episodes (the first: {dataset.table[blind[0]].episode_id}) have no camera "
            "calibration, and action frames cannot be drawn without one; give a calibration with --camera FILE, or "
            "train without action frames (--no-frames)"
        )


def _key(parts: dict[str, Any]) -> dict[str, Any]:
    spec = dict(parts["spec"])
    if parts["groupwise"]:
        spec.pop("rule")  # only says which rows make a window, and may change from run to run
    if not spec["plumb_line"]:
        del spec["plumb_line"]  # as caches were named before there was one
    return {**parts, "spec": spec}


def _camera_digest(camera: PinholeCamera | None) -> str | None:
    if camera is None:
        return None
    numbers = [camera.K.tolist(), camera.T_camera_base.tolist(), camera.width, camera.height]
    lens = None if camera.distortion is None else np.asarray(camera.distortion).tolist()
    return json_sha256([numbers, lens])


@torch.no_grad()
def _encode_episode(
    episode: Episode, codec: LatentCodec, spec: LatentSpec, camera: PinholeCamera | None, final: Path
) -> None:
    pictures = resized(
        np.concatenate([episode.color_THW3, episode.final.image_HW3[None]]), spec.image_height, spec.image_width
    )
    encode = _by_groups if codec.groupwise else _by_windows
    anchors = usable_anchors(episode.valid_T, spec.rule)
    arrays = {f"image_{name}": value for name, value in encode(pictures, codec, spec.rule, anchors, True).items()}
    if spec.action_frames:
        assert camera is not None  # build_latents looked
        style = PLUMB_STYLE if spec.plumb_line else STYLE
        drawn = episode_action_frames(episode, camera.resized(spec.image_width, spec.image_height), style)
        encoded = encode(drawn, codec, spec.rule, anchors, False)
        arrays |= {f"action_{name}": value for name, value in encoded.items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise LatentError(
                f"episode {episode.metadata.episode_id!r}: {name} holds NaN or values beyond float16; the codec is "
                "broken or does not normalise its latents: train it again"
            )
    temporary = final.with_name(f".{final.name}.{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        for name, array in arrays.items():
            np.save(temporary / f"{name}.npy", array)
        steps: dict[str, Any] = {
            "action_T7": episode.action_T7,
            "valid_T": episode.valid_T,
            "state_F7": episode_states(episode),
        }
        np.savez(temporary / STEPS_FILE, **steps)
        hashes = {name: array_sha256(array) for name, array in {**arrays, **steps}.items()}
        write_json(temporary / EPISODE_FILE, {"episode_id": episode.metadata.episode_id, "hashes": hashes})
        if not final.exists():  # another process may have been quicker; its content is the same
            publish_folder(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _by_groups(
    frames_FHW3: Image, codec: LatentCodec, rule: WindowRule, anchors: NDArray[np.int64], past: bool
) -> dict[str, Latents]:
    count = len(frames_FHW3)
    member_G4 = np.clip(np.arange(1 - GROUP, count)[:, None] + np.arange(GROUP), 0, count - 1)
    groups = [
        codec.encode_groups(_tensor(frames_FHW3[some], codec))
        for some in np.array_split(member_G4, -(-len(member_G4) // ENCODE_AT_ONCE))
    ]
    if past:
        return {"group_GChw": _half(groups)}
    singles = [
        codec.encode(_tensor(some[:, None], codec))[:, :, 0]
        for some in np.array_split(frames_FHW3, -(-count // ENCODE_AT_ONCE))
    ]
    return {"single_FChw": _half(singles), "group_GChw": _half(groups)}


def _by_windows(
    frames_FHW3: Image, codec: LatentCodec, rule: WindowRule, anchors: NDArray[np.int64], past: bool
) -> dict[str, Latents]:
    last = len(frames_FHW3) - 1
    clips, histories = [], []
    for some in np.array_split(anchors, -(-len(anchors) // (ENCODE_AT_ONCE // 8))) if len(anchors) else []:
        clip = np.clip(some[:, None] + np.arange(rule.actions + 1), 0, last)
        clips.append(codec.encode(_tensor(frames_FHW3[clip], codec)))
        if past and rule.history:
            before = np.clip(some[:, None] + np.arange(-rule.history, 0), 0, last)
            histories.append(codec.encode_history(_tensor(frames_FHW3[before], codec)))
    if not clips:
        return {}
    return {"clip_NCLhw": _half(clips), **({"history_NCMhw": _half(histories)} if histories else {})}


def _tensor(frames: Image, codec: LatentCodec) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(frames)).to(_device(codec))


def _device(codec: LatentCodec) -> torch.device:
    return next(iter(codec.parameters())).device


def _half(parts: Sequence[Tensor]) -> Latents:
    with np.errstate(over="ignore"):  # what becomes infinite is refused later, with its name
        return np.concatenate([part.detach().float().cpu().numpy() for part in parts]).astype(np.float16)
