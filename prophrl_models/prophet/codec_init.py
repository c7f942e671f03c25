"""A start for the small codec that already works: its linear part is made the principal components of pictures.

At the start every residual block is the identity, so encoder and decoder are linear: three times a 2 x 2 block of
pixels becomes channels and is projected. Taking the projections that keep most of the pictures' energy (and their
transposes in the decoder) begins training at the best linear codec of that form instead of at noise; on a CPU that
saves most of the training. Channels beyond the projections keep their random weights.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from prophrl_models.prophet.codec_small import SmallCodec, to_groups


@torch.no_grad()
def start_from_pictures(codec: SmallCodec, frames_N4HW3: Tensor) -> None:
    """Set the codec's linear part from groups of four pictures, uint8 [N, 4, H, W, 3].

    Raises:
        ValueError: too few pictures for the number of latent channels.
    """
    codec.check_frames(frames_N4HW3)
    N, _, H, W, _ = frames_N4HW3.shape
    positions = N * (H // 8) * (W // 8)
    if positions < 4 * codec.latent_channels:
        raise ValueError(f"{N} groups of {H} x {W} pixels are too few to start {codec.latent_channels} channels from")
    x = to_groups(frames_N4HW3)
    encoder = [layer for layer in codec.encoder.layers if isinstance(layer, nn.Conv2d)]
    decoder = [layer for layer in codec.decoder.layers if isinstance(layer, nn.Conv2d)]
    for level, into in enumerate(encoder[:-1]):
        x = F.pixel_unshuffle(x, 2)
        out_of = decoder[-1 - level]
        basis_KC = _directions(x, min(into.out_channels, out_of.in_channels))
        _set(into, basis_KC)
        _set(out_of, basis_KC.T)
        x = torch.einsum("kc,nchw->nkhw", basis_KC, x)
        if x.shape[1] < into.out_channels:  # directions beyond the data's own number stay out of it
            x = F.pad(x, (0, 0, 0, 0, 0, into.out_channels - x.shape[1]))
    mean_C = x.mean(dim=(0, 2, 3))
    basis_KC = _directions(x - mean_C[:, None, None], codec.latent_channels)
    latent = torch.einsum("kc,nchw->nkhw", basis_KC, x - mean_C[:, None, None])
    spread_K = latent.std(dim=(0, 2, 3)).clamp_min(1e-3)
    scaled_KC = basis_KC / spread_K[:, None]
    _set(encoder[-1], scaled_KC, -scaled_KC @ mean_C)
    used = min(decoder[0].out_channels, x.shape[1])
    bias = decoder[0].bias
    assert bias is not None
    _set(decoder[0], (basis_KC * spread_K[:, None]).T[:used], F.pad(mean_C[:used], (0, len(bias) - used)))


def _directions(x_NCHW: Tensor, count: int) -> Tensor:
    """The ``count`` directions [K, C] with most energy, strongest first; fewer where there are fewer channels."""
    flat_PC = x_NCHW.permute(0, 2, 3, 1).reshape(-1, x_NCHW.shape[1]).double()
    _, vectors = torch.linalg.eigh(flat_PC.T @ flat_PC / len(flat_PC))
    strongest: Tensor = vectors.flip(1).T[:count]
    return strongest.to(x_NCHW.dtype).contiguous()


def _set(layer: nn.Conv2d, weight_OI: Tensor, bias_O: Tensor | None = None) -> None:
    """Make a convolution this linear map at its centre tap; rows beyond it keep a tenth of their random weights."""
    rows, columns = weight_OI.shape
    centre = layer.kernel_size[0] // 2
    layer.weight.mul_(0.1)
    layer.weight[:rows] = 0.0
    layer.weight[:rows, :columns, centre, centre] = weight_OI
    if layer.bias is not None:
        layer.bias.zero_()
        if bias_O is not None:
            layer.bias.copy_(bias_O)
