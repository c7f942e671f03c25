"""The known picture under generated ones: what rests is exact, what moves is shown, what creeps is lost."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prophrl_models.prophet.composite import BOX_PX, GROWN_PX, HIGH, LOW, composite


@pytest.fixture
def known_BHW3() -> Tensor:
    return torch.randint(60, 180, (2, 40, 48, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def drawn(picture_BHW3: Tensor, frames: int, error: int = 9) -> Tensor:
    """As a codec would draw it: every frame of a group of four is wrong in its own way."""
    generator = torch.Generator().manual_seed(1)
    wrong_4HW3 = torch.randint(-error, error + 1, (4, *picture_BHW3.shape[1:]), generator=generator)
    blurred = picture_BHW3[:, None].int() + wrong_4HW3[torch.arange(frames) % 4]
    return blurred.clamp(0, 255).to(torch.uint8)


def test_where_nothing_changes_the_known_picture_is_shown_to_the_bit(known_BHW3: Tensor) -> None:
    generated, still = drawn(known_BHW3, 8), drawn(known_BHW3, 4)
    assert not torch.equal(generated, known_BHW3[:, None].expand_as(generated))
    shown = composite(generated, still, known_BHW3)
    assert torch.equal(shown, known_BHW3[:, None].expand_as(generated))


def test_a_moving_block_is_shown_where_it_is_and_nowhere_else(known_BHW3: Tensor) -> None:
    generated, still = drawn(known_BHW3, 8), drawn(known_BHW3, 4)
    for t in range(8):
        generated[:, t, 10:20, 4 + 3 * t : 14 + 3 * t] = 255
    shown = composite(generated, still, known_BHW3)
    reach = BOX_PX // 2 + GROWN_PX
    for t in range(8):
        left = 4 + 3 * t
        assert (shown[:, t, 10:20, left : left + 10] == 255).all()
        outside = torch.ones(40, 48, dtype=torch.bool)
        outside[10 - reach : 20 + reach, max(left - reach, 0) : left + 10 + reach] = False
        assert torch.equal(shown[:, t][:, outside], known_BHW3[:, outside])


def test_what_has_left_its_place_is_not_shown_there_any_more(known_BHW3: Tensor) -> None:
    """The known picture holds the block; the generated ones show the ground behind it."""
    with_block = known_BHW3.clone()
    with_block[:, 10:20, 10:20] = 255
    still, generated = drawn(with_block, 4), drawn(known_BHW3, 4)
    shown = composite(generated, still, with_block)
    assert torch.equal(shown[:, :, 11:19, 11:19], generated[:, :, 11:19, 11:19])


def test_a_change_below_the_threshold_is_lost_and_one_in_between_is_mixed(known_BHW3: Tensor) -> None:
    still = known_BHW3[:, None]
    for change, share in ((LOW - 1, 0.0), ((LOW + HIGH) / 2, 0.5), (HIGH + 1, 1.0)):
        brighter = (still.int() + int(change)).to(torch.uint8)
        shown = composite(brighter, still, known_BHW3)
        assert torch.equal(shown.int() - still.int(), torch.full_like(still, round(share * change)).int())


def test_pictures_that_do_not_belong_together_are_refused(known_BHW3: Tensor) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        composite(drawn(known_BHW3, 4)[:, :, :32], drawn(known_BHW3, 4), known_BHW3)
    with pytest.raises(ValueError, match="uint8"):
        composite(drawn(known_BHW3, 4).float(), drawn(known_BHW3, 4), known_BHW3)
