"""Clips of a mixture of datasets, encoded as they come; each batch is of one dataset, with its picture size."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from calibration.action_frame import STYLE, render_action_frames
from calibration.action_frame_drawing import ActionFrameStyle
from calibration.camera import PinholeCamera
from calibration.poses import from_euler
from prophrl_models.data.latents import GROUP
from prophrl_models.data.mixture import Mixture
from prophrl_models.data.mixture_batch import MixtureBatch
from prophrl_models.data.mixture_loader import VERSION as MIXTURE_STATE
from prophrl_models.data.mixture_loader import MixtureLoader
from prophrl_models.prophet.clips import ClipBatch, pack_actions
from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.training.settings import TrainingError


class MixtureClips:
    """Clips of a mixture's batches, each batch from one dataset, encoded on the codec's device when asked for.

    Raises:
        TrainingError: windows or conventions that do not fit the world model.
    """

    def __init__(
        self,
        mixture: Mixture,
        codec: Codec,
        config: ProphetConfig,
        *,
        workers: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.mixture, self.codec, self.config = mixture, codec, config
        self._workers, self._rank, self._world = workers, rank, world_size
        self._loader: MixtureLoader | None = None
        self._next = -1
        network, window = config.network, mixture.config.window
        history = network.memory.frames if network.memory else 0
        if window.actions != network.actions or window.history != history:
            raise TrainingError(
                f"the mixture's windows have {window.history} past frames and {window.actions} actions, the world "
                f"model takes {history} and {network.actions}; set window.history and window.actions so"
            )
        for source in mixture.sources:
            if source.convention is not config.convention:
                raise TrainingError(
                    f"source {source.label!r} has actions in {source.convention.name}, the world model reads "
                    f"{config.convention.name}; give the source convention: {config.convention.name}"
                )

    def batch(self, number: int) -> ClipBatch:
        """Batch number ``number``; numbers of this rank in a row are fastest."""
        if self._loader is None or number != self._next:
            self._restart(number)
        assert self._loader is not None
        self._next = number + self._world
        return self.encoded(next(self._loader))

    @torch.no_grad()
    def encoded(self, batch: MixtureBatch) -> ClipBatch:
        """A batch of pictures as clips.

        Raises:
            ValueError: pictures whose sides the codec cannot take.
        """
        network, history = self.config.network, batch.history
        device = next(self.codec.parameters()).device
        images = batch.images_BTHW3.to(device)
        past, latent = self._latents(images, history)
        drawn = mixture_action_frames(batch, network.frame_style) if network.action_frames != "none" else None
        real = batch.frame_valid_BT[:, history::GROUP]  # a latent is recorded when the last frame behind it is
        valid = real.clone()
        valid[:, 0] = False
        actions = pack_actions(
            batch.action_BTN7, self.config.action_scaling, network.action_dim, batch.effector_mask_BN
        )
        return ClipBatch(
            latent,
            past if network.memory else None,
            None if drawn is None else self.codec.encode(drawn.to(device)),
            actions if network.scalar_actions else None,
            valid,
            batch.source,
        )

    def _latents(self, images_BTHW3: Tensor, history: int) -> tuple[Tensor, Tensor]:
        """Latents of the history and of the clip, as ``prophet.history`` divides them."""
        codec = self.codec
        if not codec.groupwise:
            past = codec.encode_history(images_BTHW3[:, :history]) if history else images_BTHW3[:, :0]
            return past, codec.encode(images_BTHW3[:, history:])
        groups = codec.encode_history(
            torch.cat([images_BTHW3[:, :1].expand(-1, GROUP - 1, -1, -1, -1), images_BTHW3], 1)
        )
        return groups[:, :, : history // GROUP], groups[:, :, history // GROUP :]

    def close(self) -> None:
        """Stop the workers."""
        if self._loader is not None:
            self._loader.close()

    def _restart(self, number: int) -> None:
        self.close()
        base = number - self._rank
        state = {
            "version": MIXTURE_STATE,
            "next_batch": base,
            "positions": self.mixture.positions(base),
            "next_windows": [list(draw) for draw in self.mixture.draws(base)],
            "plan": self.mixture.plan(),
        }
        self._loader = MixtureLoader(
            self.mixture, workers=self._workers, rank=self._rank, world_size=self._world, state=state
        )


def mixture_action_frames(batch: MixtureBatch, style: ActionFrameStyle = STYLE) -> Tensor | None:
    """Action frames uint8 [B, 1 + A, H, W, 3] of the known and the following frames; None unless all have a camera."""
    camera = batch.camera
    if camera is None or not bool(camera.known_B.all()):
        return None
    height, width = batch.images_BTHW3.shape[2:4]
    state = batch.state_BTN7[:, batch.history :].double().numpy()
    opening = torch.cat([batch.state_BTN7[:, batch.history, None, :, 6], batch.action_BTN7[..., 6]], dim=1).numpy()
    pictures = []
    for row in range(len(batch)):
        K, lens = camera.K_B33[row].double().numpy(), camera.distortion_B5[row].double().numpy()
        poses = np.stack([[from_euler(arm[:6]) for arm in arms] for arms in state[row]])
        poses[:, ~batch.effector_mask_BN[row].numpy()] = np.nan  # absent arms are not drawn
        views = camera.T_camera_base_BT44[row, batch.history :].double().numpy()
        model = PinholeCamera(K[0, 0], K[1, 1], K[0, 2], K[1, 2], width, height, views[0], lens if lens.any() else None)
        if (views == views[0]).all():
            pictures.append(render_action_frames(poses, opening[row], model, style=style))
            continue
        moving = [replace(model, T_camera_base=view) for view in views]
        pictures.append(
            np.concatenate(
                [
                    render_action_frames(poses[t : t + 1], opening[row, t : t + 1], m, style=style)
                    for t, m in enumerate(moving)
                ]
            )
        )
    return torch.from_numpy(np.stack(pictures))
