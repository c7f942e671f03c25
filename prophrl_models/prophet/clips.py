"""Batches of clips for the world model: from cached latents here, from mixtures in ``clips_mixture``.

Batch number n holds the same clips whoever asks for it and in whatever order, so a resumed run and several processes
see what one uninterrupted process would see.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prophrl_models.data.latents import GROUP, LatentCache, LatentWindow
from prophrl_models.policies.interface import Scaling
from prophrl_models.prophet.config import ProphetConfig
from prophrl_models.prophet.train_settings import ClipOptions
from prophrl_models.training.settings import TrainingError

LEAD = 1
"""Tells the random numbers of leads from those of draws, which are older than leads."""
LEAD_GROUPS = (2, 5)
"""Latent frames that a lead moves on at once: what a policy keeps of a chunk, and a whole one."""


@dataclass(frozen=True)
class ClipBatch:
    """B clips; clean latents, conditioning as the network takes it.

    Attributes:
        latent_BCLHW: the first latent frame is the known frame.
        history_BCMHW: None for a network without memory.
        frame_latent_BCLHW: latents of the action frames; None where the network or the data has none.
        actions_BAX: scaled, padded with zeros to X; None for a network without the scalar stream.
        valid_BL: latent frames to be learned: recorded, and not the known one.
        source: where the clips are from.
        lead: the clips before these that are to be imagined first (``imagined_past``), oldest first, each as long as it
            is to the next. ``valid_BL[:, 0]`` of one says whether the row's episode reaches back so far.
    """

    latent_BCLHW: Tensor
    history_BCMHW: Tensor | None
    frame_latent_BCLHW: Tensor | None
    actions_BAX: Tensor | None
    valid_BL: Tensor
    source: str
    lead: tuple[ClipBatch, ...] = ()

    def __len__(self) -> int:
        return len(self.latent_BCLHW)

    def to(self, device: torch.device) -> ClipBatch:
        """The same on another device, latents as float32."""

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device, torch.float32, non_blocking=True)

        return ClipBatch(
            self.latent_BCLHW.to(device, torch.float32, non_blocking=True),
            moved(self.history_BCMHW),
            moved(self.frame_latent_BCLHW),
            moved(self.actions_BAX),
            self.valid_BL.to(device),
            self.source,
            tuple(clip.to(device) for clip in self.lead),
        )


class ClipSource(Protocol):
    """Where clips come from."""

    def batch(self, number: int) -> ClipBatch:
        """Batch number ``number``."""

    def close(self) -> None:
        """Stop workers."""


def pack_actions(action_BAN7: Tensor, scaling: Scaling, action_dim: int, real_BN: Tensor | None = None) -> Tensor:
    """Actions of N effectors as the network takes them [B, A, X]: each scaled, side by side, zeros for the rest.

    Args:
        action_BAN7: environment units.
        real_BN: effectors that exist; None: all.

    Raises:
        TrainingError: more effectors than the network has room for.
    """
    scaled = scaling.normalise(action_BAN7.float())
    if real_BN is not None:
        scaled = scaled * real_BN[:, None, :, None].to(scaled)
    flat = scaled.flatten(2)
    room = action_dim - flat.shape[2]
    if room < 0:
        raise TrainingError(f"actions of {flat.shape[2]} numbers, the network takes {action_dim}")
    return torch.nn.functional.pad(flat, (0, room))


class CachedClips:
    """Clips from latent caches of one or several datasets with the same convention.

    Args:
        batch_size: clips of a batch.
        seed: of all draws.
        left_out: for each cache, episodes whose windows are never drawn.
        together: batches that processes work on at the same time. Their leads are alike in number and length, because
            processes that share a network must pass it equally often.
        leads_after: batches (of each process) before the first one that may have a lead.
    """

    def __init__(
        self,
        caches: Sequence[LatentCache],
        config: ProphetConfig,
        options: ClipOptions,
        *,
        batch_size: int,
        seed: int = 0,
        left_out: Sequence[Sequence[int]] = (),
        together: int = 1,
        leads_after: int = 0,
    ) -> None:
        self.caches, self.config, self.options = tuple(caches), config, options
        self.batch_size, self.seed = batch_size, seed
        self.together, self.leads_after = together, leads_after
        if options.imagined_share > 0.0 and not all(cache.groupwise for cache in self.caches):
            raise TrainingError(
                "clips.imagined_share needs a codec whose latent frames are encoded one by one; set it to 0"
            )
        without = left_out or [()] * len(self.caches)
        keep = [~np.isin(cache.window_NI[:, 0], list(gone)) for cache, gone in zip(caches, without, strict=True)]
        self._first_N = np.concatenate([[0], np.cumsum([len(cache) for cache in caches])])
        self._all = np.flatnonzero(np.concatenate(keep))
        self._event = np.flatnonzero(np.concatenate([cache.event_N for cache in caches]) & np.concatenate(keep))
        self._chance_all, self._chance_event = self._chances(self._all), self._chances(self._event)
        if not len(self._all):
            raise TrainingError("every episode is held out, nothing is left to train on; lower held_out")
        if options.event_share > 0.0 and not len(self._event):
            raise TrainingError(
                "clips.event_share asks for windows in which the gripper moves, and it moves in none; set it to 0"
            )

    def __len__(self) -> int:
        return len(self._all)

    def draws(self, number: int) -> list[int]:
        """Windows of batch ``number``, counted through all caches."""
        rng = np.random.default_rng((self.seed, number))
        chosen = rng.choice(self._all, size=self.batch_size, p=self._chance_all)
        if self.options.event_share > 0.0:
            near = rng.choice(self._event, size=self.batch_size, p=self._chance_event)
            chosen = np.where(rng.random(self.batch_size) < self.options.event_share, near, chosen)
        return [int(row) for row in chosen]

    def _chances(self, windows_N: NDArray[np.int64]) -> NDArray[np.float64] | None:
        """The chance of each of these windows by its dataset's weight; None: all alike."""
        weights = self.options.weights
        if not weights:
            return None
        if len(weights) != len(self.caches):
            raise TrainingError(
                f"clips.weights has {len(weights)} numbers for {len(self.caches)} datasets; give one for each"
            )
        weight_N = np.asarray(weights, np.float64)[np.searchsorted(self._first_N, windows_N, side="right") - 1]
        return weight_N / weight_N.sum() if len(weight_N) else None

    def batch(self, number: int) -> ClipBatch:
        """Batch number ``number``, on the CPU."""
        rows = self.draws(number)
        return replace(self.rows(rows), lead=self._lead(number, rows))

    def rows(self, indexes: Sequence[int]) -> ClipBatch:
        """The clips of these windows."""
        return self._packed([cache.window(number) for cache, number in map(self._place, indexes)])

    def _place(self, index: int) -> tuple[LatentCache, int]:
        """Cache and number of a window that is counted through all caches."""
        cache = int(np.searchsorted(self._first_N, index, side="right")) - 1
        return self.caches[cache], int(index) - int(self._first_N[cache])

    def _lead(self, number: int, indexes: Sequence[int]) -> tuple[ClipBatch, ...]:
        """What is to be imagined before these windows; nothing for most batches."""
        options = self.options
        if options.imagined_share <= 0.0 or number // self.together < self.leads_after:
            return ()
        rng = np.random.default_rng((self.seed, number // self.together, LEAD))
        if rng.random() >= options.imagined_share:
            return ()
        groups = int(rng.choice(LEAD_GROUPS))
        found = map(self._place, indexes)
        places = [(cache, int(cache.window_NI[row, 0]), int(cache.window_NI[row, 1])) for cache, row in found]
        links = []
        for back in range(int(rng.integers(1, options.imagined_chunks + 1)), 0, -1):
            starts = [(cache, episode, known - back * GROUP * groups) for cache, episode, known in places]
            clips = self._packed([cache.at(episode, max(0, start)) for cache, episode, start in starts])
            frames, valid = clips.frame_latent_BCLHW, clips.valid_BL[:, : 1 + groups]
            valid[:, 0] = torch.tensor([start >= 0 for _, _, start in starts])
            links.append(
                replace(
                    clips,
                    latent_BCLHW=clips.latent_BCLHW[:, :, : 1 + groups],
                    frame_latent_BCLHW=None if frames is None else frames[:, :, : 1 + groups],
                    valid_BL=valid,
                )
            )
        return tuple(links)

    def _packed(self, found: Sequence[LatentWindow]) -> ClipBatch:
        """Windows as the network takes them."""
        network = self.config.network
        frames = [window.frame_CLhw for window in found if window.frame_CLhw is not None]
        use_frames = network.action_frames != "none" and len(frames) == len(found)
        actions = torch.from_numpy(np.stack([window.action_A7 for window in found]))
        valid = torch.from_numpy(np.stack([window.latent_valid_L for window in found]))
        valid[:, 0] = False
        return ClipBatch(
            torch.from_numpy(np.stack([window.clip_CLhw for window in found])),
            torch.from_numpy(np.stack([window.history_CMhw for window in found])) if network.memory else None,
            torch.from_numpy(np.stack(frames)) if use_frames else None,
            pack_actions(actions[:, :, None], self.config.action_scaling, network.action_dim)
            if network.scalar_actions
            else None,
            valid,
            "cache",
        )

    def close(self) -> None:
        """Nothing runs in the background."""


class ReadAhead:
    """A source whose next batches are prepared by a thread.

    Args:
        ahead: batches that are prepared; 0: none.
        stride: distance to the next number that will be asked for.
    """

    def __init__(self, source: ClipSource, ahead: int, stride: int = 1) -> None:
        self.source, self.ahead, self.stride = source, ahead, stride
        # One thread, and only that one, touches the source: a mixture is not for several.
        self._pool = ThreadPoolExecutor(1, "clips") if ahead > 0 else None
        self._waiting: dict[int, Future[ClipBatch]] = {}

    def batch(self, number: int) -> ClipBatch:
        """Batch number ``number``."""
        if self._pool is None:
            return self.source.batch(number)
        wanted = range(number, number + (1 + self.ahead) * self.stride, self.stride)
        for stale in [n for n in self._waiting if n not in wanted]:
            self._waiting.pop(stale).cancel()
        for n in wanted:
            if n not in self._waiting:
                self._waiting[n] = self._pool.submit(self.source.batch, n)
        return self._waiting.pop(number).result()

    def close(self) -> None:
        """Stop the thread and the source's own workers."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self.source.close()


def vary(batch: ClipBatch, options: ClipOptions, generator: torch.Generator) -> ClipBatch:
    """The batch with noise on what is known, with streams left out and cut short, as the options ask.

    The target, ``latent_BCLHW`` beyond the known frame, stays as it is, as far as it is kept.
    """
    batch = _shortened(batch, options, generator)
    latent, history = batch.latent_BCLHW, batch.history_BCMHW
    frames, actions = batch.frame_latent_BCLHW, batch.actions_BAX
    device, rows = latent.device, len(batch)

    def draw(chance: float) -> Tensor:
        return torch.rand(rows, generator=generator, device=device) < chance

    if options.drop_history > 0.0 and history is not None:
        dropped = draw(options.drop_history)[:, None, None, None, None]
        history = torch.where(dropped, latent[:, :, :1].expand_as(history), history)
    if options.drop_actions > 0.0:
        dropped = draw(options.drop_actions)
        actions = None if actions is None else actions * ~dropped[:, None, None]
        frames = None if frames is None else frames * ~dropped[:, None, None, None, None]
    if options.drop_frames > 0.0 and frames is not None:
        frames = frames * ~draw(options.drop_frames)[:, None, None, None, None]
    if options.context_noise > 0.0:
        size = options.context_noise * torch.rand(rows, 1, 1, 1, 1, generator=generator, device=device)
        known = latent[:, :, :1]
        latent = torch.cat([known + size * _noise(known, generator), latent[:, :, 1:]], dim=2)
        history = None if history is None else history + size * _noise(history, generator)
    return replace(batch, latent_BCLHW=latent, history_BCMHW=history, frame_latent_BCLHW=frames, actions_BAX=actions)


def _shortened(batch: ClipBatch, options: ClipOptions, generator: torch.Generator) -> ClipBatch:
    """The first latent frames of a batch, a random number of at least two, in ``short_share`` of all cases."""
    if options.short_share <= 0.0:
        return batch
    device, full = batch.latent_BCLHW.device, batch.latent_BCLHW.shape[2]
    chance, place = torch.rand(2, generator=generator, device=device).tolist()
    if chance >= options.short_share:
        return batch
    kept = 2 + int(place * (full - 2))  # 2 .. full - 1
    frames = batch.frame_latent_BCLHW
    return replace(
        batch,
        latent_BCLHW=batch.latent_BCLHW[:, :, :kept],
        frame_latent_BCLHW=None if frames is None else frames[:, :, :kept],
        valid_BL=batch.valid_BL[:, :kept],
    )


def _noise(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, device=like.device, dtype=like.dtype)
