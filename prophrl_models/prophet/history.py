"""The last frames of many rollouts, as the latents a network's memory is made of.

The history is what ``data.windows`` makes it in training: the M frames before the known one, oldest first, in groups of
four, the earliest frame repeated where a rollout is younger. After ``keep`` more frames the groups begin elsewhere. For
a groupwise codec the latents of *all* groups of four consecutive frames are kept (M - 3 of them), so that every fourth
is the history at any alignment and a step encodes only the ``keep`` new groups. Other codecs encode the M frames anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from prophrl_models.prophet.codec import Codec

GROUP = 4


@dataclass(frozen=True)
class History:
    """Histories of B rollouts; make one with ``begin``.

    Attributes:
        frames_BNHW3: uint8 frames before the known one: the last three for a groupwise codec, else all M.
        sliding_BCNHW: latents of the M - 3 groups that start at each frame; None for other codecs.
    """

    frames_BNHW3: Tensor
    sliding_BCNHW: Tensor | None

    @staticmethod
    def begin(first_BHW3: Tensor, length: int, codec: Codec) -> History:
        """History of rollouts at their first frame: ``length`` copies of it.

        Raises:
            ValueError: ``length`` is no positive multiple of four.
        """
        if length < GROUP or length % GROUP:
            raise ValueError(f"a history has a positive multiple of {GROUP} frames (the paper's 60), got {length}")
        if not codec.groupwise:
            return History(first_BHW3[:, None].repeat(1, length, 1, 1, 1), None)
        latent_BChw = codec.encode_groups(first_BHW3[:, None].expand(-1, GROUP, -1, -1, -1))
        sliding = latent_BChw[:, :, None].repeat(1, 1, length - GROUP + 1, 1, 1)
        return History(first_BHW3[:, None].repeat(1, GROUP - 1, 1, 1, 1), sliding)

    def latents(self, codec: Codec) -> Tensor:
        """Latents of the history [B, C, M / 4, h, w], oldest first."""
        if self.sliding_BCNHW is not None:
            return self.sliding_BCNHW[:, :, ::GROUP].contiguous()
        return codec.encode_history(self.frames_BNHW3)

    def extended(self, known_BHW3: Tensor, frames_BFHW3: Tensor, keep_B: Tensor, codec: Codec) -> History:
        """The history after each row kept ``keep`` of F new frames, the last of which is the new known one.

        Args:
            known_BHW3: the frame that was known so far.
            frames_BFHW3: frames after it, F the largest of ``keep_B``.
        """
        if frames_BFHW3.shape[1] == 0:
            return self
        tape = torch.cat([self.frames_BNHW3, known_BHW3[:, None], frames_BFHW3], dim=1)
        length = self.frames_BNHW3.shape[1]
        frames = _window(tape, 1, keep_B, length)
        if self.sliding_BCNHW is None:
            return History(frames, None)
        # The groups that are new start at the last three old frames, the known one, and on; F of them.
        groups = tape.unfold(1, GROUP, 1)[:, : frames_BFHW3.shape[1]].permute(0, 1, 5, 2, 3, 4)
        B, F = groups.shape[:2]
        latent_NChw = codec.encode_groups(groups.reshape(B * F, *groups.shape[2:]))
        new_BCFHW = latent_NChw.reshape(B, F, *latent_NChw.shape[1:]).transpose(1, 2)
        sliding = torch.cat([self.sliding_BCNHW, new_BCFHW.to(self.sliding_BCNHW.dtype)], dim=2)
        return History(frames, _window(sliding, 2, keep_B, self.sliding_BCNHW.shape[2]))

    def select(self, rows: Tensor) -> History:
        """The histories of some rows."""
        sliding = self.sliding_BCNHW
        return History(self.frames_BNHW3[rows], None if sliding is None else sliding[rows])


def _window(tape: Tensor, dim: int, start_B: Tensor, length: int) -> Tensor:
    """``length`` entries along ``dim`` of each row, from the row's own start."""
    if bool((start_B == start_B[0]).all()):
        return tape.narrow(dim, int(start_B[0]), length).contiguous()
    return torch.stack([row.narrow(dim - 1, start, length) for row, start in zip(tape, start_B.tolist(), strict=True)])
