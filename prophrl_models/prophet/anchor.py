"""The known frame as the place from which a small world model counts.

Most of a picture stays as it is for two seconds, and a network trained from nothing spends most of its training on
learning to copy. With the known latent frame c given at every place, a clip is x0 = c + d, and what is left to learn is
the change d. With z = x_t - (1 - t) c = (1 - t) d + t eps and the velocity w = eps - d of the change,

    v = w - c,    w = k(t) z + b(t) F,    k = (t - (1 - t) s^2) / q,    b = s / sqrt(q),    q = (1 - t)^2 s^2 + t^2

where k z is the best linear guess of w for changes of deviation s and b the deviation of what it misses, so that the
network's output F has deviation 1 at all noise levels (the preconditioning of Karras et al., arXiv 2206.00364, written
for the flow's velocity). From pure noise a network whose output is zero expects c, where others expect nothing.

The base model has no such thing; networks that start from its weights cannot use it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SPREAD = 0.7
"""s: root mean square of the change over two seconds, in latents of deviation 1; measured on the twin: 0.5 .. 0.9."""


def anchored_input(latent_BCLHW: Tensor, t_BL: Tensor) -> Tensor:
    """What the network is shown instead of noised latents: z at deviation 1, and the known frame at every place.

    Args:
        latent_BCLHW: x_t; frame 0 is the known frame.

    Returns:
        [B, 2 C, L, h, w] in the type of ``latent_BCLHW``.
    """
    t, c, _, _, q = _parts(latent_BCLHW, t_BL)
    z = latent_BCLHW.float() - (1.0 - t) * c
    return torch.cat([z * q.rsqrt(), c.expand_as(z)], dim=1).type_as(latent_BCLHW)


def anchored_velocity(out_BCLHW: Tensor, latent_BCLHW: Tensor, t_BL: Tensor) -> Tensor:
    """Velocity of the clip that the network's output F means, float32."""
    t, c, k, b, _ = _parts(latent_BCLHW, t_BL)
    z = latent_BCLHW.float() - (1.0 - t) * c
    return k * z + b * out_BCLHW.float() - c


def _parts(latent_BCLHW: Tensor, t_BL: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """t, c, k, b and q, to be broadcast over a clip."""
    t = t_BL.float()[:, None, :, None, None]
    q = (1.0 - t).square() * SPREAD**2 + t.square()
    k = (t - (1.0 - t) * SPREAD**2) / q
    return t, latent_BCLHW[:, :, :1].float(), k, SPREAD * q.rsqrt(), q
