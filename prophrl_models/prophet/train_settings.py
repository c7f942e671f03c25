"""Settings of a world model's training, as ``config/prophet/*.yaml`` hold them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prophrl_models.prophet.codec_train import CodecTrainOptions
from prophrl_models.prophet.noise import NoiseOptions
from prophrl_models.training.loop import LoopOptions
from prophrl_models.training.lora import LoraOptions
from prophrl_models.training.settings import TrainingError, read_settings

SHARES = ("event_share", "drop_actions", "drop_frames", "drop_history", "short_share", "imagined_share")


@dataclass(frozen=True)
class ClipOptions:
    """Which windows are drawn, and how they are varied.

    Attributes:
        min_actions: windows with at least so many recorded actions are used; their missing actions are holds, and
            latent frames that show nothing recorded have no part in the loss. Chunks that a policy leaves short are
            filled with holds too, so the network should have seen some.
        step: frames from the start of one window to the start of the next; 1 where latents are cheap to keep.
        event_share: part of the rows that are drawn among windows in which the gripper is told to open or close;
            the others are uniform over all windows. Contact is rare in a demonstration, and is what matters most.
        context_noise: largest standard deviation of noise on known frame and history (each row draws its own, uniform
            from 0); in a rollout both are the network's own and never perfect.
        drop_actions, drop_frames, drop_history: part of the rows that lack a stream: no action numbers and no action
            frames (zeros), or a history of copies of the known frame.
        short_share: part of the batches that are cut to a random number of latent frames (at least two). A network that
            has seen short clips imagines no more frames than a rollout keeps: with a policy that looks again after 8 of
            20 actions, half the work. It still sees all 20 actions.
        weights: how often each dataset is drawn, a number for each; none: windows are all alike.
        imagined_share: part of the batches whose known frames and histories end in what the network itself imagines
            (``imagined_past``); needs dataset folders and a groupwise codec.
        imagined_chunks: most chunks that are imagined before such a clip.
        imagined_from: part of the run after which there are such batches: early on there is nothing to imagine with.
    """

    min_actions: int = 4
    step: int = 1
    event_share: float = 0.0
    context_noise: float = 0.0
    drop_actions: float = 0.0
    drop_frames: float = 0.0
    drop_history: float = 0.0
    short_share: float = 0.0
    weights: tuple[float, ...] = ()
    imagined_share: float = 0.0
    imagined_chunks: int = 3
    imagined_from: float = 0.0

    def __post_init__(self) -> None:
        for name in (*SHARES, "imagined_from"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise TrainingError(f"clips.{name} must lie in 0..1, got {getattr(self, name)}")
        if self.imagined_chunks < 1:
            raise TrainingError(f"clips.imagined_chunks must be at least 1, got {self.imagined_chunks}")
        if self.context_noise < 0.0:
            raise TrainingError(f"clips.context_noise must not be negative, got {self.context_noise}")
        listed = isinstance(self.weights, tuple) and all(isinstance(value, (int, float)) for value in self.weights)
        if not listed or not all(0.0 < value < math.inf for value in self.weights):
            raise TrainingError(f"clips.weights must be a list of positive numbers, got {self.weights!r}")


@dataclass(frozen=True)
class ProphetTrainConfig:
    """One training run of a world model.

    Attributes:
        size: ``prophet.config.preset`` that a new network is made after; without meaning where weights are given.
        network: fields of ``NetworkConfig`` that differ from it.
        batch_size: windows of an optimiser step, over all cards and passes.
        micro_batch: windows that go through a card at once; ``batch_size`` is a multiple of it times the cards.
        train: "full", or "lora": adapters in the transformer, and the action and memory modules in full.
        lora: sizes of the adapters.
        precision: "bf16" or "fp32", of the arithmetic where autocast allows; trained weights are always float32.
        gradient_checkpointing: recompute blocks in the backward pass.
        compile: fuse the arithmetic of the blocks (``training.compiled``); where that cannot be done, it is said.
        action_scaling: "quantile" maps the 1st .. 99th percentile of each action channel to -1 .. 1; "none" leaves
            metres and radians (the paper).
        mixture: YAML of a dataset mixture; its batches are encoded as they come, and no folders are given.
        read_ahead: batches that are prepared while the network works; 0: none.
        mixture_workers: processes that read a mixture.
        sampling_steps: passes of the network for a chunk that the checkpoint is to be sampled with.
        held_out, split_seed: part of each dataset's episodes that is kept for evaluation, and which (``data.split``).
        channel_weighting: "decoder" weighs each latent channel's error by how much it shows (``channel_weights``);
            needs dataset folders and a groupwise codec. "none": all alike.
        clips, noise, codec, loop: see there. ``codec`` is used where no codec is given; its picture size is the
            preset's.
    """

    size: str = "small"
    network: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 16
    micro_batch: int = 16
    train: Literal["full", "lora"] = "full"
    lora: LoraOptions = field(default_factory=lambda: LoraOptions(rank=16, alpha=16))
    precision: Literal["bf16", "fp32"] = "bf16"
    gradient_checkpointing: bool = False
    compile: bool = False
    action_scaling: Literal["quantile", "none"] = "quantile"
    mixture: str = ""
    read_ahead: int = 2
    mixture_workers: int = 4
    sampling_steps: int = 10
    held_out: float = 0.0
    split_seed: int = 0
    channel_weighting: Literal["none", "decoder"] = "none"
    clips: ClipOptions = field(default_factory=ClipOptions)
    codec: CodecTrainOptions = field(default_factory=CodecTrainOptions)
    noise: NoiseOptions = field(default_factory=NoiseOptions)
    loop: LoopOptions = field(
        default_factory=lambda: LoopOptions(
            steps=20_000,
            learning_rate=1e-4,
            warmup=1000,
            weight_decay=0.1,
            betas=(0.9, 0.99),
            ema=0.999,
            final_fraction=1.0,
            save_every=500,
            tensorboard=True,
        )
    )

    def __post_init__(self) -> None:
        if self.sampling_steps < 1:
            raise TrainingError(f"sampling_steps must be at least 1, got {self.sampling_steps}; 10 is usual")
        if self.channel_weighting == "decoder" and self.mixture:
            raise TrainingError("channel_weighting: decoder is for dataset folders; leave it out with a mixture")
        if self.clips.imagined_share > 0.0 and self.mixture:
            raise TrainingError("clips.imagined_share is for dataset folders; leave it out with a mixture")

    def passes(self, world: int) -> int:
        """Passes of ``micro_batch`` windows that each process makes for one step.

        Raises:
            TrainingError: ``batch_size`` cannot be divided so.
        """
        together = self.micro_batch * world
        if self.micro_batch < 1 or self.batch_size < 1 or self.batch_size % together:
            raise TrainingError(
                f"batch_size {self.batch_size} is not a positive multiple of micro_batch {self.micro_batch} x {world} "
                f"processes; choose one that is, for example {max(1, round(self.batch_size / together)) * together}"
            )
        return self.batch_size // together


def load_prophet_config(path: str | Path) -> ProphetTrainConfig:
    """Read settings from YAML; what is left out keeps its default.

    Raises:
        TrainingError: see ``training.settings.read_settings``.
    """
    return read_settings(ProphetTrainConfig, path)
