"""A file of records: what was appended is found again, whatever killed the program that wrote it."""

from __future__ import annotations

from pathlib import Path

import pytest

from prophrl_models.data.lines import LineError, append_line, read_lines


def test_records_come_back_in_order_with_the_numbers_of_their_lines(tmp_path: Path) -> None:
    path = tmp_path / "new" / "log.jsonl"
    assert list(read_lines(path)) == []
    append_line(path, {"a": 1})
    append_line(path, {"words": "zwölf\nlines", "nested": {"b": [None, True]}})
    assert list(read_lines(path)) == [(1, {"a": 1}), (2, {"words": "zwölf\nlines", "nested": {"b": [None, True]}})]


@pytest.mark.parametrize("lost", range(1, 16))
def test_a_write_that_was_cut_short_anywhere_costs_only_its_own_record(tmp_path: Path, lost: int) -> None:
    path = tmp_path / "log.jsonl"
    append_line(path, {"first": 1})
    append_line(path, {"second": 22222})
    path.write_bytes(path.read_bytes()[:-lost])
    torn = path.read_bytes()
    assert list(read_lines(path)) == [(1, {"first": 1})]
    assert path.read_bytes() == torn, "another program may be writing that line just now"
    append_line(path, {"third": 3})
    assert list(read_lines(path)) == [(1, {"first": 1}), (2, {"third": 3})]


def test_a_first_record_that_was_cut_short_leaves_an_empty_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"fir')
    assert list(read_lines(path)) == []
    append_line(path, {"first": 1})
    assert list(read_lines(path)) == [(1, {"first": 1})]


@pytest.mark.parametrize("line", ["nonsense", "[1]", "3", "", '{"a": 1'])
def test_damage_before_the_last_line_is_named_and_nothing_is_thrown_away(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n{{"b": 2}}\n')
    before = path.read_bytes()
    with pytest.raises(LineError, match=r"log.jsonl, line 2 is damaged \(.*\); restore or remove that line"):
        list(read_lines(path))
    append_line(path, {"c": 3})
    assert path.read_bytes().startswith(before)
