"""Training of the small codec: pictures in, the same pictures out, small things kept sharp.

Loss: absolute error weighted by the target's edges (a cube of five pixels is a few edge pixels among twelve thousand
others), absolute error of the spatial differences (sharpness) and of the differences between the four frames (motion),
and a squared error for the colours of large areas. Noise on the latents makes the decoder smooth: a world model's
latents are never exact. Latents start with deviation 1 (``codec_init``), and a small penalty on their size keeps the
encoder from shouting the noise down. Batches are crops, of several random ones the one with most edges and motion.

A run can be killed and started again (``training.loop``): it follows the same curve.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from calibration.camera import PinholeCamera
from prophrl_models.data.image import Image
from prophrl_models.prophet.codec import PROVENANCE, save_codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.codec_init import start_from_pictures
from prophrl_models.prophet.codec_pictures import Pictures
from prophrl_models.prophet.codec_small import GROUP, SmallCodec, to_groups
from prophrl_models.prophet.trained_on import RECORD as TRAINED_ON
from prophrl_models.prophet.trained_on import TrainedOn
from prophrl_models.training.checkpoint import git_revision
from prophrl_models.training.distributed import Processes
from prophrl_models.training.loop import Loop, LoopOptions, Progress
from prophrl_models.training.settings import TrainingError


def _loop() -> LoopOptions:
    # A long warm-up: the first steps of Adam would undo the linear start (``codec_init``).
    return LoopOptions(steps=6000, learning_rate=1e-3, warmup=300, weight_decay=0.0, ema=0.995, save_every=500)


@dataclass(frozen=True)
class CodecTrainOptions:
    """How a codec is trained.

    Attributes:
        image_height, image_width: size of the pictures.
        batch: groups of a step.
        crop: side of the crops in pixels, a multiple of 8; 0: whole pictures.
        crop_tries: random crops of which the busiest is taken.
        action_frame_share: groups that are action frames.
        still_share: groups that are one picture four times, as first frames are encoded.
        latent_noise: deviation of the noise on latents, whose own deviation is about 1.
        latent_penalty: weight of the latents' mean square.
        edge_weight, gradient_weight, change_weight, square_weight: of the loss's parts.
        statistics_groups: groups for the latents' statistics, and held-out groups that are measured.
        bfloat16: compute in bfloat16 where it is safe.
    """

    image_height: int = 96
    image_width: int = 128
    batch: int = 16
    crop: int = 64
    crop_tries: int = 3
    action_frame_share: float = 0.2
    still_share: float = 0.2
    latent_noise: float = 0.1
    latent_penalty: float = 2e-3
    edge_weight: float = 4.0
    gradient_weight: float = 0.5
    change_weight: float = 1.0
    square_weight: float = 2.0
    statistics_groups: int = 192
    bfloat16: bool = True
    loop: LoopOptions = field(default_factory=_loop)

    def __post_init__(self) -> None:
        side = min(self.image_height, self.image_width)
        if self.crop % 8 or not 0 <= self.crop <= side or self.crop_tries < 1 or self.batch < 1:
            raise ValueError(f"crop must be a multiple of 8 in 0..{side}, tries and batch at least 1; got {self}")
        if not (0.0 <= self.action_frame_share <= 1.0 and 0.0 <= self.still_share <= 1.0 and self.latent_noise >= 0.0):
            raise ValueError(f"shares lie in 0..1 and latent_noise is not negative, got {self}")


def train_codec(
    dataset_folders: Sequence[str | Path],
    output: str | Path,
    config: CodecConfig,
    options: CodecTrainOptions | None = None,
    *,
    camera: PinholeCamera | None = None,
    held_out: float = 0.0,
    split_seed: int = 0,
    device: torch.device | str = "cpu",
    report: Callable[[Progress], None] | None = None,
) -> dict[str, float]:
    """Train a codec on the pictures of datasets and leave it in ``output`` (``codec.load_codec`` reads it).

    Args:
        camera: of the policy images (240 x 320), for episodes that were recorded without a calibration: with it their
            action frames are learned, too.
        held_out, split_seed: part of the episodes that is kept from training, and which (``data.split``): those of the
            world model that the codec is for.

    Returns:
        Measurements on held-out episodes (those trained on, where none are): ``psnr_db`` of camera frames,
        ``psnr_busy_db`` of their busiest 16 x 16 blocks, ``psnr_action_frames_db``, ``latent_std``. They are in the
        provenance too.

    Raises:
        TrainingError: the folder holds a finished codec, or this kind of codec is not trained here.
        DatasetError, ValueError: a dataset cannot be used.
        CheckpointError: the folder holds an unfinished run with other data or settings.
    """
    options, output = options or CodecTrainOptions(), Path(output)
    if config.kind != "small":
        raise TrainingError(f"the {config.kind!r} codec is used with its published weights; only 'small' is trained")
    if (output / PROVENANCE).exists():
        raise TrainingError(f"{output} holds a finished codec; choose a new output folder")
    config.latent_size(options.image_height, options.image_width)
    pictures = Pictures(
        dataset_folders, options.image_height, options.image_width, camera, held_out=held_out, split_seed=split_seed
    )
    torch.manual_seed(options.loop.seed)
    codec = SmallCodec(config)
    start_from_pictures(codec, torch.from_numpy(_groups(pictures, options, 64, np.random.default_rng(1))))
    codec.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    fingerprint = f"{_fingerprint(pictures, config, options, camera)} split {held_out:g} {split_seed}"
    loop = Loop(codec, options.loop, output, fingerprint, Processes(device=torch.device(device)))
    loop.resume()
    loop.run(lambda _, generator: codec_loss(codec, _batch(pictures, options, generator), options, generator), report)
    loop.average.copy_to(codec)
    _set_statistics(codec, pictures, options)
    measured = _measure(codec, pictures, options)
    provenance: dict[str, Any] = {
        "dataset_hashes": pictures.dataset_hashes,
        "calibration_ids": pictures.calibration_ids,
        "options": asdict(options),
        "measured": measured,
        "held_out": {"fraction": held_out, "seed": split_seed},
        TRAINED_ON: TrainedOn.of(shots.episode.metadata.episode_id for shots in pictures.training).to_json(),
        "episodes_without_camera": pictures.without_camera,
        "git_revision": git_revision(),
        "torch": torch.__version__,
        "created_ns": time.time_ns(),
    }
    save_codec(output, codec, provenance)
    loop.remove_resume_file()
    return measured


def codec_loss(
    codec: SmallCodec, frames_N4HW3: Tensor, options: CodecTrainOptions, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """Loss of groups uint8 [N, 4, H, W, 3]; ``loss`` is the scalar to minimise, ``error`` the mean error in levels."""
    device = codec.latent_mean.device
    x = to_groups(frames_N4HW3.to(device))
    with torch.autocast(device.type, torch.bfloat16, enabled=options.bfloat16):
        latent = codec.raw_latents(x)
        noise = torch.randn(latent.shape, generator=generator, device=device)
        y = codec.decoder((latent + options.latent_noise * noise).contiguous(memory_format=torch.channels_last))
    y = y.float()
    (across, down), (y_across, y_down) = _differences(x), _differences(y)
    edges = F.avg_pool2d(F.pad(across.abs(), (0, 1, 0, 0)) + F.pad(down.abs(), (0, 0, 0, 1)), 3, 1, 1).clamp_max(1.0)
    error = (y - x).abs()
    weighted = ((1.0 + options.edge_weight * edges) * error).mean()
    sharpness = (y_across - across).abs().mean() + (y_down - down).abs().mean()
    motion = (_changes(y) - _changes(x)).abs().mean()
    loss = (
        weighted
        + options.gradient_weight * sharpness
        + options.change_weight * motion
        + options.square_weight * error.square().mean()
        + options.latent_penalty * latent.square().mean()
    )
    return {"loss": loss, "error": 127.5 * error.detach().mean()}


def _differences(x_NCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Differences of neighbouring pixels: across and down."""
    return x_NCHW[..., 1:] - x_NCHW[..., :-1], x_NCHW[..., 1:, :] - x_NCHW[..., :-1, :]


def _changes(x_NCHW: Tensor) -> Tensor:
    """Differences of consecutive frames of each group."""
    frames: Tensor = x_NCHW.unflatten(1, (GROUP, 3))
    return frames[:, 1:] - frames[:, :-1]


def _batch(pictures: Pictures, options: CodecTrainOptions, generator: torch.Generator) -> Tensor:
    seed = int(torch.randint(2**62, (1,), generator=generator, device=generator.device))
    return torch.from_numpy(_groups(pictures, options, options.batch, np.random.default_rng(seed)))


def _groups(pictures: Pictures, options: CodecTrainOptions, count: int, rng: np.random.Generator) -> Image:
    """Groups as training sees them, [count, 4, crop, crop, 3] or whole pictures."""
    groups = []
    for _ in range(count):
        group = pictures.group(rng, action_frames=bool(rng.random() < options.action_frame_share))
        if rng.random() < options.still_share:
            group = np.repeat(group[:1], GROUP, axis=0)
        group = _busiest_crop(group, options, rng) if options.crop else group
        groups.append(group[:, :, ::-1] if rng.random() < 0.5 else group)
    return np.stack(groups)


def _busiest_crop(group_4HW3: Image, options: CodecTrainOptions, rng: np.random.Generator) -> Image:
    height, width = group_4HW3.shape[1:3]
    best, best_score = group_4HW3, -1.0
    for _ in range(options.crop_tries):
        top, left = rng.integers(height - options.crop + 1), rng.integers(width - options.crop + 1)
        crop = group_4HW3[:, top : top + options.crop, left : left + options.crop]
        green = crop[..., 1].astype(np.int16)
        score = float(np.abs(np.diff(green[0], axis=1)).mean() + 4.0 * np.abs(green[-1] - green[0]).mean())
        if score > best_score:
            best, best_score = crop, score
    return best


@torch.no_grad()
def _set_statistics(codec: SmallCodec, pictures: Pictures, options: CodecTrainOptions) -> None:
    """Normalise latents on whole camera pictures of the training episodes."""
    rng = np.random.default_rng(options.loop.seed)
    codec.eval()
    codec.latent_mean.zero_()
    codec.latent_std.fill_(1.0)
    latents = [codec.encode_groups(_whole(pictures, rng, 1, codec)) for _ in range(options.statistics_groups)]
    stacked_NChw = torch.cat(latents)
    codec.latent_mean.copy_(stacked_NChw.mean(dim=(0, 2, 3)))
    codec.latent_std.copy_(stacked_NChw.std(dim=(0, 2, 3)).clamp_min(1e-3))


@torch.no_grad()
def _measure(codec: SmallCodec, pictures: Pictures, options: CodecTrainOptions) -> dict[str, float]:
    """Reconstruction of held-out episodes, and how normal their latents are."""
    rng = np.random.default_rng(options.loop.seed + 1)
    errors: dict[bool, list[float]] = {False: [], True: []}
    busy: list[float] = []
    spreads: list[float] = []
    for number in range(options.statistics_groups):
        drawn = number % 3 == 2 and options.action_frame_share > 0.0
        frames = _whole(pictures, rng, 1, codec, held_out=True, action_frames=drawn)
        latent = codec.encode_groups(frames)
        again = codec.decode_generated(torch.stack([latent, latent], dim=2))
        square_HW = (again.float() - frames.float()).square().mean(dim=(0, 1, 4))
        errors[drawn].append(float(square_HW.mean()))
        if not drawn:
            spreads.append(float(latent.std()))
            busy.append(float(_blocks(square_HW)[_blocks(_activity(frames)).argmax()]))
    measured = {"psnr_db": _psnr(errors[False]), "psnr_busy_db": _psnr(busy), "latent_std": float(np.mean(spreads))}
    if errors[True] and any(shots.camera is not None for shots in pictures.held_out):
        measured["psnr_action_frames_db"] = _psnr(errors[True])
    return measured


def _activity(frames_N4HW3: Tensor) -> Tensor:
    """How much happens at each pixel [H, W]: edges, and change within the group."""
    x = frames_N4HW3.float().mean(dim=(0, 4))
    edges = F.pad((x[0, :, 1:] - x[0, :, :-1]).abs(), (0, 1)) + F.pad((x[0, 1:] - x[0, :-1]).abs(), (0, 0, 0, 1))
    return edges + 4.0 * (x[-1] - x[0]).abs()


def _blocks(values_HW: Tensor) -> Tensor:
    """Means over blocks of 16 x 16 pixels, flat."""
    return F.avg_pool2d(values_HW[None, None], min(16, *values_HW.shape)).flatten()


def _psnr(squares: Sequence[float]) -> float:
    return float(10.0 * np.log10(255.0**2 / max(float(np.mean(squares)), 1e-6)))


def _whole(
    pictures: Pictures,
    rng: np.random.Generator,
    count: int,
    codec: SmallCodec,
    *,
    held_out: bool = False,
    action_frames: bool = False,
) -> Tensor:
    groups = [pictures.group(rng, held_out=held_out, action_frames=action_frames) for _ in range(count)]
    return torch.from_numpy(np.stack(groups)).to(codec.latent_mean.device)


def _fingerprint(
    pictures: Pictures, config: CodecConfig, options: CodecTrainOptions, camera: PinholeCamera | None
) -> str:
    plain = f"codec {pictures.dataset_hashes} {config.to_json()} {asdict(options)}"
    if camera is None:
        return plain
    lens = [] if camera.distortion is None else np.asarray(camera.distortion).tolist()
    return f"{plain} camera {camera.K.tolist()} {camera.T_camera_base.tolist()} {lens}"
