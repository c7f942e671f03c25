"""Held-out episodes: each by its own name, and several datasets need only together have both sides."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from prophrl_models.data.split import SplitError, derived_name, held_out, held_out_of_each, is_held_out, original_name


@dataclass(frozen=True)
class Row:
    episode_id: str


@dataclass(frozen=True)
class Table:
    table: tuple[Row, ...]


def table(*names: str) -> Table:
    return Table(tuple(Row(name) for name in names))


OUT, IN = ([f"e{i}" for i in range(200) if is_held_out(f"e{i}", 0.1) == side] for side in (True, False))


def test_a_few_new_episodes_need_not_be_on_both_sides_when_others_are() -> None:
    old, few = table(*OUT[:2], *IN[:10]), table(*IN[10:13])
    first, second = held_out_of_each([old, few], 0.1)
    assert first == held_out(old, 0.1) and first.held_out == (0, 1)
    assert second.held_out == () and second.train == (0, 1, 2)
    with pytest.raises(SplitError, match="of 3 episodes none is left to hold out"):
        held_out(few, 0.1)
    with pytest.raises(SplitError, match="of 4 episodes none is left to train"):
        held_out_of_each([table(*OUT[:2]), table(*OUT[2:4])], 0.1)


def test_episodes_keep_their_side_when_others_come() -> None:
    names = [*OUT[:3], *IN[:20]]
    alone = held_out(table(*names), 0.1)
    grown = held_out_of_each([table(*names), table(*IN[20:30], *OUT[3:5])], 0.1)
    assert grown[0] == alone


def test_what_was_made_from_an_episode_lies_on_its_side() -> None:
    for name in (*OUT, *IN):
        made = derived_name(derived_name(name, "stopped-1"), "mirrored")
        assert is_held_out(made, 0.1) == is_held_out(name, 0.1) and original_name(made) == name
    assert original_name("~backup") == "~backup"  # nothing stands before it: a name like any other
