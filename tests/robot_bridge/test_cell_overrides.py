"""Values given from outside replace those of the cell file, and only they."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import pytest

from robot_bridge.cell import CellError, load_cell
from robot_bridge.cell_files import open_cell
from robot_bridge.cell_overrides import add_override_argument, override_arguments, overrides_of, twin_overrides

CELLS = Path(__file__).parents[2] / "config" / "cells"


def test_camera_profile_replaces_size_and_rate_on_twin_and_hardware() -> None:
    for name in ("twin", "ur30e"):
        plain, changed = open_cell(name), open_cell(name, camera_profile="848x480@6")
        assert (changed.camera.width, changed.camera.height, changed.camera.rate_hz) == (848, 480, 6)
        camera = replace(changed.camera, width=plain.camera.width, height=plain.camera.height)
        assert replace(changed, camera=replace(camera, rate_hz=plain.camera.rate_hz)) == plain
        assert open_cell(name, camera_profile="") == plain


@pytest.mark.parametrize("profile", ["848x480", "848*480@6", "0x480@6", "848x480@6.5", "x@"])
def test_broken_camera_profile_is_refused(profile: str) -> None:
    with pytest.raises(CellError, match="a camera profile is <width>x<height>@<rate>"):
        open_cell("twin", camera_profile=profile)


def test_overrides_are_checked_like_the_file() -> None:
    cell = open_cell("twin", overrides={"twin.camera_seed": 5, "safety.tcp_speed_mps": 0.1})
    assert cell.twin is not None
    assert (cell.twin.camera_seed, cell.twin.camera_mount, cell.safety.tcp_speed_mps) == (5, "fixed", 0.1)
    for overrides, message in (
        ({"twin.camera_seed": "five"}, "camera_seed must be of type int"),
        ({"twin.camera_seed": -2}, "must not be negative, got -2"),
        ({"twin.camera_mount": "head"}, "must be one of fixed, tool, got 'head'"),
        ({"twin.camara_seed": 5}, "did you mean 'camera_seed'"),
        ({"camera_seed": 5}, "named section.field"),
    ):
        with pytest.raises(CellError, match=message):
            open_cell("twin", overrides=overrides)
    with pytest.raises(CellError, match="real hardware, it has no twin section"):
        load_cell(CELLS / "ur30e.yaml", overrides={"twin.camera_seed": 5})


def test_overrides_reach_another_process_through_its_command_line() -> None:
    overrides = {"twin.camera_seed": 5, "twin.task": "calibration", "camera.rate_hz": 6, "safety.stale_s": 0.25}
    parser = argparse.ArgumentParser()
    add_override_argument(parser)
    assert overrides_of(parser.parse_args(override_arguments(overrides))) == overrides
    assert overrides_of(parser.parse_args([])) == {}
    with pytest.raises(ValueError, match="--set takes KEY=VALUE"):
        overrides_of(parser.parse_args(["--set", "twin.camera_seed"]))


def test_nothing_given_changes_nothing() -> None:
    assert twin_overrides() == {}
    assert twin_overrides(scene="calibration", camera_seed=0, camera_mount="tool") == {
        "twin.task": "calibration",
        "twin.camera_seed": 0,
        "twin.camera_mount": "tool",
    }
