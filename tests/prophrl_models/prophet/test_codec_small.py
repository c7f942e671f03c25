"""The small codec: shapes, groups, histories in any alignment, files, and its linear start."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.codec import build_codec, load_codec, save_codec
from prophrl_models.prophet.codec_config import CodecConfig
from prophrl_models.prophet.codec_init import start_from_pictures
from prophrl_models.prophet.codec_small import SmallCodec, to_frames, to_groups
from prophrl_models.prophet.history import History
from prophrl_models.training.checkpoint import CheckpointError

TINY = CodecConfig(
    encoder_widths=(16, 16, 24), decoder_widths=(16, 16, 24), encoder_blocks=(0, 1, 1), decoder_blocks=(0, 1, 1)
)


def tiny_codec(seed: int = 0) -> SmallCodec:
    """A codec with random weights (residual blocks included) and statistics that matter."""
    torch.manual_seed(seed)
    codec = SmallCodec(TINY)
    for parameter in codec.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    codec.latent_mean.normal_()
    codec.latent_std.uniform_(0.5, 2.0)
    return codec.eval()


def moving_pictures(clips: int, frames: int, height: int = 16, width: int = 24, seed: int = 0) -> Tensor:
    """Smooth backgrounds with a bright square that moves."""
    rng = np.random.default_rng(seed)
    video = np.zeros((clips, frames, height, width, 3), np.uint8)
    for clip in range(clips):
        colour = rng.integers(40, 120, 3)
        video[clip] = (colour + np.linspace(0, 60, width)[:, None]).astype(np.uint8)
        y, x = rng.integers(0, height - 4), rng.integers(0, width - 4)
        for frame in range(frames):
            x = int(np.clip(x + rng.integers(-1, 3), 0, width - 4))
            video[clip, frame, y : y + 4, x : x + 4] = [230, 60, 30]
    return torch.from_numpy(video)


def test_a_clip_has_a_latent_for_its_first_frame_and_one_for_every_four_more() -> None:
    codec, clip = tiny_codec(), moving_pictures(2, 21)
    latent = codec.encode(clip)
    assert latent.shape == (2, 16, 6, 2, 3)
    assert codec.decode(latent).shape == clip.shape and codec.decode(latent).dtype == torch.uint8
    torch.testing.assert_close(codec.encode(clip[:, :1]), latent[:, :, :1])
    torch.testing.assert_close(codec.encode_groups(clip[:, 5:9]), latent[:, :, 2])
    still = clip[:, :1].expand(-1, 4, -1, -1, -1)
    torch.testing.assert_close(codec.encode_groups(still), latent[:, :, 0])


def test_a_known_frame_alone_stands_still_whatever_was_before_it() -> None:
    codec, clip = tiny_codec(), moving_pictures(2, 9)
    groups = codec.encode_groups(clip[:, 5:9])[:, :, None]
    newest = codec.decode(groups.repeat(1, 1, 2, 1, 1))[:, -1:]
    alone = codec.alone(groups)
    assert alone.shape == groups.shape and not torch.allclose(alone, groups)
    torch.testing.assert_close(alone, codec.encode(newest))


def test_parts_of_a_clip_decode_as_in_the_whole() -> None:
    codec = tiny_codec()
    latent = torch.randn(2, 16, 6, 2, 3, generator=torch.Generator().manual_seed(1))
    whole = codec.decode(latent)
    assert torch.equal(codec.decode_generated(latent), whole[:, 1:])
    assert torch.equal(codec.decode_generated(latent[:, :, :3]), whole[:, 1:9])
    for frames in (1, 3, 4, 7, 20, 21):
        assert torch.equal(codec.decode_last(latent, frames), whole[:, -frames:])


def test_pixels_survive_the_way_into_groups_and_back() -> None:
    frames = torch.randint(0, 256, (3, 4, 8, 16, 3), dtype=torch.uint8)
    groups = to_groups(frames)
    assert groups.shape == (3, 12, 8, 16) and float(groups.abs().max()) <= 1.0
    assert torch.equal(to_frames(groups), frames)
    assert torch.equal(groups[1, 2 * 3 + 1], frames[1, 2, :, :, 1].float() / 127.5 - 1.0)


@pytest.mark.parametrize("keeps", [[4, 4, 8], [5, 5, 5, 5, 5, 5], [1, 3, 20, 2, 0, 7]])
def test_a_history_is_always_the_groups_of_four_before_the_one_that_ends_with_the_known_frame(keeps: list[int]) -> None:
    """Against the definition: repeat the first frame before the start, cut, encode."""
    codec, length = tiny_codec(), 12
    tape = moving_pictures(2, 1 + sum(keeps), seed=3)
    history, now = History.begin(tape[:, 0], length, codec), 0
    for keep in keeps:
        history = history.extended(tape[:, now], tape[:, now + 1 : now + 1 + keep], torch.full((2,), keep), codec)
        now += keep
        index = np.clip(np.arange(now - length - 3, now + 1), 0, None)
        expected = codec.encode_history(tape[:, index])
        assert history.groups_BCNHW is not None
        found = torch.cat([history.latents(codec), history.groups_BCNHW[:, :, -1:]], dim=2)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_rows_of_a_history_may_keep_different_numbers_of_frames() -> None:
    codec, length = tiny_codec(), 8
    tape = moving_pictures(3, 30, seed=5)
    history, now = History.begin(tape[:, 0], length, codec), [0, 0, 0]
    for keeps in ([3, 0, 5], [5, 2, 0], [0, 4, 1]):
        known = torch.stack([tape[row, now[row]] for row in range(3)])
        following = torch.stack([tape[row, now[row] + 1 : now[row] + 1 + max(keeps)] for row in range(3)])
        history = history.extended(known, following, torch.tensor(keeps), codec)
        now = [n + k for n, k in zip(now, keeps, strict=True)]
        for row in range(3):
            index = np.clip(np.arange(now[row] - length - 3, now[row] - 3), 0, None)
            expected = codec.encode_history(tape[row : row + 1, index])
            torch.testing.assert_close(history.latents(codec)[row : row + 1], expected, rtol=1e-4, atol=1e-5)
    picked = history.select(torch.tensor([2, 0]))
    assert torch.equal(picked.latents(codec), history.latents(codec)[[2, 0]])


def test_principal_components_start_the_codec_near_the_best_linear_one() -> None:
    torch.manual_seed(0)
    codec = SmallCodec(CodecConfig(encoder_blocks=(1, 1, 1), decoder_blocks=(1, 1, 1)))
    pictures = moving_pictures(48, 4, seed=1)
    start_from_pictures(codec, pictures)
    latent = codec.encode_groups(pictures)
    torch.testing.assert_close(latent.mean(dim=(0, 2, 3)), torch.zeros(16), atol=2e-2, rtol=0)
    torch.testing.assert_close(latent.std(dim=(0, 2, 3)), torch.ones(16), atol=5e-2, rtol=0)
    square = (codec.decode_generated(torch.stack([latent, latent], 2)).float() - pictures.float()).square().mean()

    # The best linear codec of 8 x 8 x 4 blocks, by singular values.
    flat = pictures.float().reshape(48, 4, 2, 8, 3, 8, 3).permute(0, 2, 4, 1, 3, 5, 6).reshape(-1, 768).double()
    centred = flat - flat.mean(0)
    best = torch.linalg.svdvals(centred)[16:].square().sum() / centred.numel()
    assert float(best) <= float(square) < 2.0 * float(best) + 1.0


def test_a_codec_comes_back_from_its_folder_unchanged(tmp_path: Path) -> None:
    codec, clip = tiny_codec(), moving_pictures(1, 5)
    save_codec(tmp_path / "codec", codec, {"dataset_hashes": ["x"]})
    again, provenance = load_codec(tmp_path / "codec")
    assert provenance["dataset_hashes"] == ["x"] and again.config == TINY and not again.training
    assert torch.equal(again.encode(clip), codec.encode(clip))


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    save_codec(tmp_path, tiny_codec(), {})
    settings = (tmp_path / "codec.json").read_text()
    (tmp_path / "codec.json").write_text(settings.replace("24", "32"))
    with pytest.raises(CheckpointError, match="SHA-256"):
        load_codec(tmp_path)
    (tmp_path / "codec_provenance.json").unlink()
    with pytest.raises(CheckpointError, match=r"codec_provenance\.json"):
        load_codec(tmp_path)


def test_bfloat16_changes_pictures_by_little() -> None:
    codec, clip = tiny_codec(), moving_pictures(2, 9)
    latent = codec.encode(clip)
    half = tiny_codec().to(torch.bfloat16)
    assert half.encode(clip).dtype == torch.bfloat16
    difference = half.decode(latent).float() - codec.decode(latent).float()
    assert float(difference.abs().mean()) < 1.5


def test_the_small_preset_fits_its_budget_of_parameters() -> None:
    assert sum(p.numel() for p in build_codec(CodecConfig()).parameters()) < 2_500_000


def test_inputs_that_do_not_fit_are_refused() -> None:
    codec = tiny_codec()
    for shape, message in (
        ((1, 4, 16, 24, 3), r"1 \+ 4 n frames"),
        ((1, 5, 12, 24, 3), "multiples of 8"),
        ((1, 5, 16, 24), "RGB uint8"),
    ):
        with pytest.raises(ValueError, match=message):
            codec.encode(torch.zeros(shape, dtype=torch.uint8))
    with pytest.raises(ValueError, match="RGB uint8"):
        codec.encode(torch.zeros(1, 5, 16, 24, 3))
    with pytest.raises(ValueError, match="multiple of 4 frames"):
        codec.encode_history(torch.zeros(1, 6, 16, 24, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match="a group has 4 frames"):
        codec.encode_groups(torch.zeros(1, 5, 16, 24, 3, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"float \[B, 16, L, h, w\]"):
        codec.decode(torch.zeros(1, 8, 2, 2, 3))
    with pytest.raises(ValueError, match="last 30"):
        codec.decode_last(torch.zeros(1, 16, 2, 2, 3), 30)
    with pytest.raises(ValueError, match="positive multiple"):
        History.begin(torch.zeros(1, 16, 24, 3, dtype=torch.uint8), 10, codec)


def test_settings_go_through_json_and_bad_ones_are_refused() -> None:
    assert CodecConfig.from_json(TINY.to_json()) == TINY
    with pytest.raises(ValueError, match="unknown codec settings"):
        CodecConfig.from_json({"kind": "small", "depth": 3})
    with pytest.raises(ValueError, match="choose one of small, wan"):
        CodecConfig(kind="vq")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="stride"):
        CodecConfig(stride=16)
