"""Training clips whose past was imagined: what is known of them comes from the network itself, as in a rollout.

A rollout's known frame is the end of a chunk that was imagined, a little wrong. A network that has only seen recorded
ones takes every error for the truth and adds its own: what an arm carries fades from chunk to chunk. So in a part of
the batches the network first imagines the chunks that lead up to a clip, with the recorded actions, and learns to say
what was recorded next all the same (the idea of DAgger, Ross et al. 2011, and of self forcing, arXiv 2506.08009;
without gradients through the past).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from prophrl_models.prophet.clips import ClipBatch
from prophrl_models.prophet.history import apart
from prophrl_models.prophet.sampler import denoise

SIGMA = 80.0
"""The past is imagined in one pass from this noise level, the sampler's first: it only has to be as wrong as usual."""

Velocity = Callable[..., Tensor]
"""``network.Prophet``, or what arithmetic is put around it."""
Look = Callable[[Tensor], tuple[Tensor, Tensor]]
"""How a network sees a row of latents, history and known latent side by side: (known, history). ``history.look_of``."""


@torch.no_grad()
def with_imagined_past(
    network: Velocity, batch: ClipBatch, generator: torch.Generator, look: Look = apart
) -> ClipBatch:
    """The batch with known frames and histories that end in what the network imagines of ``batch.lead``.

    A row whose episode is too young for a link of the lead has its recorded past up to there; the target of every row
    stays as it was recorded. A batch without a lead keeps its recorded past.

    Args:
        look: how the network sees a row.
    """
    row_BCNHW: Tensor | None = None  # history and known frame, side by side
    led_B = torch.zeros(len(batch), dtype=torch.bool, device=batch.latent_BCLHW.device)
    for link in batch.lead:
        row_BCNHW = _row(link, row_BCNHW, led_B)
        known_BC1HW, history_BCMHW = look(row_BCNHW)

        def velocity(latent_BCLHW: Tensor, t_BL: Tensor) -> Tensor:
            return network(
                latent_BCLHW,
                t_BL,
                actions_BAX=link.actions_BAX,  # noqa: B023 (called within this turn)
                frame_latent_BCLHW=link.frame_latent_BCLHW,  # noqa: B023
                history_BCMHW=history_BCMHW if link.history_BCMHW is not None else None,  # noqa: B023
            ).float()

        noise = torch.randn(link.latent_BCLHW.shape, generator=generator, device=known_BC1HW.device)
        clip_BCLHW = denoise(velocity, known_BC1HW, noise, [SIGMA])
        row_BCNHW = torch.cat([row_BCNHW, clip_BCLHW[:, :, 1:]], dim=2)[:, :, -row_BCNHW.shape[2] :]
        led_B = link.valid_BL[:, 0]
    known_BC1HW, history_BCMHW = look(_row(batch, row_BCNHW, led_B))
    return replace(
        batch,
        latent_BCLHW=torch.cat([known_BC1HW, batch.latent_BCLHW[:, :, 1:]], dim=2),
        history_BCMHW=None if batch.history_BCMHW is None else history_BCMHW.contiguous(),
        lead=(),
    )


def _row(clip: ClipBatch, imagined_BCNHW: Tensor | None, led_B: Tensor) -> Tensor:
    """History and known frame of a clip: what was imagined of them where there is such a thing, else the recorded."""
    known = clip.latent_BCLHW[:, :, :1]
    recorded = known if clip.history_BCMHW is None else torch.cat([clip.history_BCMHW, known], dim=2)
    if imagined_BCNHW is None:
        return recorded
    return torch.where(led_B[:, None, None, None, None], imagined_BCNHW, recorded)
