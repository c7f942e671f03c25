"""The launch files we ship: documented, consistent with the nodes they start, and in agreement with each other."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import yaml
from prophrl_nodes.launch_files.arguments import declared_arguments
from prophrl_nodes.launch_files.packages import OURS, launch_files
from prophrl_nodes.launch_files.parser import read_launch_file
from prophrl_nodes.launch_files.plan import Plan, make_plan
from prophrl_nodes.node_base import CELL_PARAMETERS
from prophrl_nodes.parameters import refuse_unknown

from robot_bridge.cell import load_cell
from robot_bridge.twin.tasks import TASK_IDS

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.yaml"))
OURS_ALONE = [path for path in FILES if not path.name.startswith("easy_handeye2")]  # needs a package
GIVEN = {"policy": {"checkpoint": "runs/p"}, "evaluate": {"checkpoint": "runs/p"}}


def name_of(path: Path) -> str:
    return path.name.removesuffix(".launch.yaml")


def plan_of(path: Path, **arguments: str) -> Plan:
    return make_plan(read_launch_file(path), GIVEN.get(name_of(path), {}) | arguments, {})


def executables(plan: Plan) -> list[str]:
    return [process.name.rsplit("-", 1)[0] for process in plan.processes]


def parameters_of(module: str) -> dict[str, Any]:
    """Every parameter a node declares."""
    if module.endswith(".recorder"):
        module = f"{OURS}.recorder.parameters"
    specs = getattr(importlib.import_module(module), "PARAMETERS", CELL_PARAMETERS)
    return {spec.name: spec for spec in specs}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_every_argument_is_described_and_the_file_fits_on_a_screen(path: Path) -> None:
    for argument in declared_arguments(read_launch_file(path)):
        assert len(argument.description) > 10, f"{argument.name} of {path.name}"
    lines = path.read_text().splitlines()
    assert len(lines) <= 80
    assert lines[0].startswith("# ") and "prophrl launch" in "".join(lines[:5])


@pytest.mark.parametrize("path", OURS_ALONE, ids=name_of)
@pytest.mark.parametrize("cell", ["twin", "ur30e"])
def test_every_parameter_that_is_set_is_declared_by_its_node_and_acceptable(path: Path, cell: str) -> None:
    plan = plan_of(path, cell=cell)
    assert plan.processes
    for process in plan.processes:
        executable = process.name.rsplit("-", 1)[0]
        declared = parameters_of(f"{OURS}.nodes.{executable}")
        rules = [r.partition(":=") for f, r in zip(process.command, process.command[1:], strict=False) if f == "-p"]
        values = {name: yaml.safe_load(value) for name, _, value in rules}
        for flag, file in zip(process.command, process.command[1:], strict=False):
            if flag == "--params-file":
                values |= yaml.safe_load(Path(file).read_text())["/**"]["ros__parameters"]
        refuse_unknown(values, list(declared))
        for name, value in values.items():
            declared[name].check(value)


def test_the_lab_is_started_for_the_twin_and_never_for_hardware() -> None:
    cell = launch_files()["cell"]
    assert executables(plan_of(cell)) == ["lab", "camera", "arm", "transforms"]
    assert executables(plan_of(cell, cell="ur30e")) == ["camera", "arm", "transforms"]
    assert "lab" in executables(plan_of(cell, cell="/some/twin.yaml", lab="true"))


def test_the_overlay_is_there_for_those_who_ask_for_it() -> None:
    plan = plan_of(launch_files()["cell"], cell="ur30e", overlay="true")
    assert executables(plan) == ["camera", "arm", "transforms", "overlay"]


def test_collection_and_evaluation_end_with_their_work_and_devices_come_back() -> None:
    collect, evaluate = (plan_of(launch_files()[name]) for name in ("collect", "evaluate"))
    by_name = {p.name.rsplit("-", 1)[0]: p for plan in (collect, evaluate) for p in plan.processes}
    assert {name for name, p in by_name.items() if p.required} == {"lab", "recorder", "session", "policy", "trials"}
    assert {name for name, p in by_name.items() if p.respawn} >= {"camera", "arm", "gello", "teleop", "executor"}


def test_policies_of_a_plan_reach_the_policy_node_and_only_their_plan_the_trial_node() -> None:
    policies = "sft=runs/a rl='runs/with space'"
    plan = plan_of(launch_files()["evaluate"], checkpoint="", policies=policies, plan="runs/plan.json")
    by_name = {p.name.rsplit("-", 1)[0]: " ".join(p.command) for p in plan.processes}
    assert f'policies:="{policies}"' in by_name["policy"] and 'plan:="runs/plan.json"' in by_name["policy"]
    assert 'plan:="runs/plan.json"' in by_name["trials"] and "with space" not in by_name["trials"]


@pytest.mark.parametrize("path", OURS_ALONE, ids=name_of)
def test_namespace_host_and_domain_reach_every_node(path: Path) -> None:
    given = {"namespace": "left", "domain": "7"}
    has_cell = any(argument.name == "host" for argument in declared_arguments(read_launch_file(path)))
    plan = plan_of(path, **given, **({"host": "127.0.0.9"} if has_cell else {}))
    for process in plan.processes:
        assert "__ns:=/left" in process.command
        assert process.environment["ROS_DOMAIN_ID"] == "7"
        without_cell = {"executor", "policy"} & set(process.name.split("-")) or not has_cell
        assert 'host:="127.0.0.9"' in process.command or without_cell


def test_tasks_of_the_collection_are_those_of_the_twin() -> None:
    arguments = declared_arguments(read_launch_file(launch_files()["collect"]))
    assert next(a for a in arguments if a.name == "task").choices == TASK_IDS


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "nodes").glob("*.yaml")), ids=lambda p: p.stem)
def test_parameter_files_say_what_the_nodes_would_do_without_them(path: Path) -> None:
    declared = parameters_of(f"{OURS}.nodes.{path.stem}")
    for name, value in yaml.safe_load(path.read_text())["/**"]["ros__parameters"].items():
        assert declared[name].check(value) == declared[name].default, name


@pytest.mark.parametrize("path", sorted((ROOT / "config" / "cells").glob("*.yaml")), ids=lambda p: p.stem)
def test_cell_files_are_valid_and_named_after_their_cell(path: Path) -> None:
    assert load_cell(path).name == path.stem
