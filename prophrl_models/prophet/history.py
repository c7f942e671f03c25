"""The last frames of many rollouts, as the latents that a network is given of what was.

Codecs of whole clips see the known frame alone, and before it a history of M frames, encoded anew for every chunk.

With a groupwise codec a rollout is one row of groups of four frames. The last one ends with the known frame and is
the known latent, so the network sees how things were moving; the M / 4 before it are the history. As long as chunks are
kept in multiples of four frames, the row grows by the latents that were imagined, and nothing is ever decoded and
encoded again: what stands still stays as it is, however long the rollout. Otherwise groups begin elsewhere and are
encoded from the frames. In training the row is cut from recorded frames in the same way (``data.latents``), the
earliest frame repeated where there is nothing before it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from prophrl_models.prophet.codec import Codec
from prophrl_models.prophet.config import NetworkConfig

GROUP = 4


def apart(row_BCNHW: Tensor) -> tuple[Tensor, Tensor]:
    """(known latent, history) of a row of latents that ends with the known one."""
    return row_BCNHW[:, :, -1:], row_BCNHW[:, :, :-1]


def alone(codec: Codec) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """As ``apart``, but the known frame stands alone, and the group that ends with it is the newest of the history.

    What is predicted is a change of the known latent, and a still picture of the newest frame is nearer to what comes
    than the four frames that led to it.
    """
    return lambda row_BCNHW: (codec.alone(row_BCNHW[:, :, -1:]), row_BCNHW[:, :, 1:])


def look_of(network: NetworkConfig, codec: Codec) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """How this network sees a row of latents: ``apart`` or ``alone``."""
    return alone(codec) if network.known_alone and codec.groupwise else apart


def frames_behind(length: int, codec: Codec) -> int:
    """Frames before the known one that a history of ``length`` frames takes; those of the known group are added."""
    return length + GROUP - 1 if codec.groupwise else length


@dataclass(frozen=True)
class History:
    """Histories of B rollouts; make one with ``begin`` or ``of``.

    Attributes:
        frames_BNHW3: uint8, the last N frames; for a groupwise codec the known one is among them.
        groups_BCNHW: latents of the history's groups and of the known one; None for other codecs.
    """

    frames_BNHW3: Tensor
    groups_BCNHW: Tensor | None

    @staticmethod
    def begin(first_BHW3: Tensor, length: int, codec: Codec) -> History:
        """History of rollouts at their first frame: copies of it.

        Args:
            length: frames M of the history; 0 for a network without memory.

        Raises:
            ValueError: ``length`` is no multiple of four, or 0 with a codec that needs no history then.
        """
        if length < 0 or length % GROUP or (length == 0 and not codec.groupwise):
            raise ValueError(f"a history has a positive multiple of {GROUP} frames (the paper's 60), got {length}")
        if not codec.groupwise:
            return History(first_BHW3[:, None].repeat(1, length, 1, 1, 1), None)
        latent_BChw = codec.encode_groups(first_BHW3[:, None].expand(-1, GROUP, -1, -1, -1))
        groups = latent_BChw[:, :, None].repeat(1, 1, 1 + length // GROUP, 1, 1)
        return History(first_BHW3[:, None].repeat(1, length + GROUP, 1, 1, 1), groups)

    @staticmethod
    def of(past_BPHW3: Tensor, known_BHW3: Tensor, codec: Codec) -> History:
        """History of rollouts that begin with frames behind them.

        Args:
            past_BPHW3: the ``frames_behind`` frames before the known one, oldest first.
        """
        if not codec.groupwise:
            return History(past_BPHW3, None)
        frames = torch.cat([past_BPHW3, known_BHW3[:, None]], dim=1)
        return History(frames, codec.encode_history(frames))

    def latents(self, codec: Codec) -> Tensor:
        """Latents of the history [B, C, M / 4, h, w], oldest first."""
        if self.groups_BCNHW is not None:
            return self.groups_BCNHW[:, :, :-1].contiguous()
        return codec.encode_history(self.frames_BNHW3)

    def extended(
        self,
        known_BHW3: Tensor,
        frames_BFHW3: Tensor,
        keep_B: Tensor,
        codec: Codec,
        imagined_BCGHW: Tensor | None = None,
    ) -> History:
        """The history after each row kept ``keep`` of F new frames, the last of which is the new known one.

        Args:
            known_BHW3: the frame that was known so far.
            frames_BFHW3: frames after it, F the largest of ``keep_B``.
            imagined_BCGHW: their latents, where they were imagined; G = F / 4 or more.
        """
        if frames_BFHW3.shape[1] == 0:
            return self
        before = self.frames_BNHW3
        if self.groups_BCNHW is None:
            tape = torch.cat([before, known_BHW3[:, None], frames_BFHW3], dim=1)
            return History(_window(tape, 1, keep_B, before.shape[1]), None)
        frames = _window(torch.cat([before, frames_BFHW3], dim=1), 1, keep_B, before.shape[1])
        whole_B = keep_B % GROUP == 0
        if imagined_BCGHW is None:
            whole_B = torch.zeros_like(whole_B)
        count = self.groups_BCNHW.shape[2]
        groups = self.groups_BCNHW.new_empty(self.groups_BCNHW.shape)
        if bool(whole_B.any()) and imagined_BCGHW is not None:
            at = torch.nonzero(whole_B)[:, 0].to(groups.device)
            row = torch.cat([self.groups_BCNHW, imagined_BCGHW.to(groups.dtype)], dim=2)
            groups[at] = _window(row[at], 2, keep_B[whole_B] // GROUP, count)
        if not bool(whole_B.all()):
            at = torch.nonzero(~whole_B)[:, 0].to(groups.device)
            groups[at] = codec.encode_history(frames[at]).to(groups.dtype)
        return History(frames, groups)

    def select(self, rows: Tensor) -> History:
        """The histories of some rows."""
        groups = self.groups_BCNHW
        return History(self.frames_BNHW3[rows], None if groups is None else groups[rows])


def _window(tape: Tensor, dim: int, start_B: Tensor, length: int) -> Tensor:
    """``length`` entries along ``dim`` of each row, from the row's own start."""
    if bool((start_B == start_B[0]).all()):
        return tape.narrow(dim, int(start_B[0]), length).contiguous()
    return torch.stack([row.narrow(dim - 1, start, length) for row, start in zip(tape, start_B.tolist(), strict=True)])
