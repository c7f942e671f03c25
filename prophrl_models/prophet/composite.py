"""What nothing has happened to is shown as it was: generated pictures laid over the known one.

A codec blurs, and it blurs what moves and what rests alike: a picture that is decoded from exact latents differs
everywhere from the one it was made of, and optical flow finds motion in that. But the codec's error on a picture is
known: encode the known picture held still, decode it, and what comes out is the still picture as this codec draws it.
Where a generated frame is drawn like the still picture, it means that nothing has changed, and the known picture itself
is shown; where it differs, the generated one; in between, a mixture.

A change below the threshold is lost, however long it goes on: a slow drift of brightness over the whole picture, a
shadow of a few grey levels. Latents know nothing of this, so later chunks do not lose it too.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOW, HIGH = 20.0, 40.0
"""Differences in grey levels (of 255) up to which the known picture is shown, and from which the generated one is.
Chosen on training episodes of the twin's four tasks, with a codec of 34 dB."""
BOX_PX, GROWN_PX = 5, 2
"""Side of the box that differences are averaged over, so that a few badly drawn pixels are no change, and by how much
the changed places are then enlarged, so that edges of what moves are not cut off."""


def composite(generated_BTHW3: Tensor, still_BKHW3: Tensor, known_BHW3: Tensor) -> Tensor:
    """Generated frames, with the known picture wherever they are drawn like the still one.

    Args:
        generated_BTHW3: decoded frames, uint8.
        still_BKHW3: the known picture held still for K frames, encoded and decoded, uint8. A group's frames have errors
            of their own: frame t is compared with still frame t mod K.
        known_BHW3: the known picture itself, uint8.

    Returns:
        uint8 [B, T, H, W, 3].

    Raises:
        ValueError: shapes or types that do not fit.
    """
    B, T, H, W, _ = generated_BTHW3.shape
    shapes = (tuple(still_BKHW3.shape), tuple(known_BHW3.shape))
    if shapes != ((B, still_BKHW3.shape[1], H, W, 3), (B, H, W, 3)):
        raise ValueError(f"generated frames {tuple(generated_BTHW3.shape)} do not fit the still and known {shapes}")
    if any(frames.dtype is not torch.uint8 for frames in (generated_BTHW3, still_BKHW3, known_BHW3)):
        raise ValueError("pictures must be uint8, decoded and encoded ones alike")
    generated = generated_BTHW3.float()
    still = still_BKHW3[:, torch.arange(T, device=still_BKHW3.device) % still_BKHW3.shape[1]].float()
    apart = (generated - still).abs().amax(dim=-1)
    changed = F.avg_pool2d(apart, BOX_PX, 1, BOX_PX // 2, count_include_pad=False)
    changed = F.max_pool2d(changed, 2 * GROWN_PX + 1, 1, GROWN_PX)
    share = ((changed - LOW) / (HIGH - LOW)).clamp(0.0, 1.0)[..., None]
    known = known_BHW3[:, None].float()
    return (known + share * (generated - known)).round().to(torch.uint8)
