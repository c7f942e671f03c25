"""Our launch files and our runner against ROS's own launch, where that is installed."""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

pytest.importorskip("launch_ros", reason="ROS's own launch is not installed beside the wheels")

from prophrl_nodes.launch_files.parser import read_launch_file
from prophrl_nodes.launch_files.plan import make_plan

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.yaml"))
SPY = "import json,os,sys; print('SPY', json.dumps([sys.argv[1:], os.environ.get('E', '')]))"

EVERYTHING = """
    launch:
      - arg: {name: n, default: "12"}
      - arg: {name: truth, default: $(eval "'$(var n)' == '12'")}
      - let: {name: a, value: outer}
      - group:
          - let: {name: a, value: inner}
          - set_env: {name: E, value: $(var a) $(env NOT_SET none)}
          - push_ros_namespace: {namespace: left}
          - push-ros-namespace: {namespace: arm/}
          - node:
              pkg: spy_pkg
              exec: spy
              name: one
              namespace: own
              output: screen
              args: $(var a) --x=$(var n) "two words" $(var a)$(var n)
              param:
                - {from: $(dirname)/p.yaml}
                - {name: whole, value: 5}
                - {name: number, value: 5.5}
                - {name: flag, value: true}
                - {name: text, value: "5"}
                - {name: read, value: $(var n)}
                - {name: kept, value: $(var n), type: str}
                - {name: made, value: $(var n), type: float}
                - {name: list, value: [1, 2]}
                - {name: empty, value: $(var nothing ""), type: str}
                - {name: outer, param: [{name: inner, value: x}]}
              remap: [{from: chatter, to: $(var a)/talk}]
      - node: {pkg: spy_pkg, exec: spy, if: $(var truth), output: screen, namespace: /}
      - node: {pkg: spy_pkg, exec: spy, unless: $(var truth), output: screen}
      - include: {file: $(dirname)/other.launch.yaml, arg: [{name: b, value: $(var a)!}]}
      - executable: {cmd: PYTHON -c SPY $(var b) $(var c), output: screen, env: [{name: E, value: of $(var c)}]}
"""
OTHER = """
    launch:
      - arg: {name: b, default: own}
      - let: {name: c, value: set by other}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    executable = tmp_path / "prefix" / "lib" / "spy_pkg" / "spy"
    executable.parent.mkdir(parents=True)
    executable.write_text(f"#!{sys.executable}\n{SPY}\n")
    executable.chmod(0o755)
    marker = tmp_path / "prefix" / "share" / "ament_index" / "resource_index" / "packages" / "spy_pkg"
    marker.parent.mkdir(parents=True)
    marker.touch()
    (tmp_path / "p.yaml").write_text("/**: {ros__parameters: {a: 1}}")
    text = textwrap.dedent(EVERYTHING).replace("PYTHON", sys.executable).replace("SPY", "$(dirname)/spy.py")
    (tmp_path / "main.launch.yaml").write_text(text.replace("-c ", ""))
    (tmp_path / "spy.py").write_text(SPY)
    (tmp_path / "other.launch.yaml").write_text(textwrap.dedent(OTHER))
    prefixes = [str(tmp_path / "prefix"), *os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    monkeypatch.setenv("AMENT_PREFIX_PATH", os.pathsep.join(filter(None, prefixes)))
    return tmp_path


def seen(output: str) -> list[list[object]]:
    """Arguments and environment of every spy, with parameter files replaced by their content."""
    spies = []
    for line in output.splitlines():
        found = re.search(r"SPY (\[.*)", line)
        if found is None:
            continue
        words, variable = json.loads(found[1])
        spies.append([_normalised(words), variable])
    return sorted(spies, key=json.dumps)


def _normalised(words: list[str]) -> dict[str, object]:
    """What a ROS node would understand: its own words, its rules, its parameters."""
    import yaml

    own = words[: words.index("--ros-args")] if "--ros-args" in words else words
    rules, parameters = set(), {}
    for flag, value in itertools.pairwise(words):
        if flag == "-r":
            rules.add(value)
        elif flag == "-p":
            name, _, text = value.partition(":=")
            parameters[name] = yaml.safe_load(text)
        elif flag == "--params-file":
            for entry in yaml.safe_load(Path(value).read_text()).values():
                parameters |= _flat(entry["ros__parameters"])
    return {"own": own, "rules": sorted(rules), "parameters": parameters}


def _flat(tree: dict[str, object], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in tree.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


@pytest.mark.parametrize("words", [[], ["n:=13"]])
def test_both_runners_start_the_same_processes(folder: Path, words: list[str]) -> None:
    """The parameter files that ROS's launch writes are compared by content: both must still exist when read."""
    outputs = []
    for option in ([], ["--own-runner"]):
        command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", *option, "main.launch.yaml", *words]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        outputs.append(seen(done.stdout + done.stderr))
    assert len(outputs[0]) == 3
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name.split(".")[0])
def test_ros_launch_reads_our_files_and_declares_the_same_arguments(path: Path) -> None:
    from launch.launch_description_sources import AnyLaunchDescriptionSource

    import launch

    description = AnyLaunchDescriptionSource(str(path)).get_launch_description(launch.LaunchContext())
    theirs = {argument.name: argument.description for argument in description.get_launch_arguments()}
    own = {a.values["name"]: a.values["description"] for a in read_launch_file(path).actions if a.kind == "arg"}
    assert set(theirs) == set(own)
    assert all(theirs[name].startswith(own[name]) for name in own)


def test_a_file_that_our_parser_plans_is_stopped_by_ctrl_c_under_ros_launch_too(folder: Path) -> None:
    text = "launch: [{executable: {cmd: sh -c 'echo up $$; exec sleep 60', output: screen}}]"
    (folder / "sleep.launch.yaml").write_text(text)
    assert len(make_plan(read_launch_file(folder / "sleep.launch.yaml"), {}).processes) == 1
    command = [sys.executable, "-m", "prophrl_nodes.cli.main", "launch", "sleep.launch.yaml"]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert process.stdout is not None
    deadline_s = time.monotonic() + 30.0
    for line in process.stdout:
        if "up " in line or time.monotonic() > deadline_s:
            break
    child = int(line.split()[-1])
    assert psutil.pid_exists(child)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30.0)
    assert not psutil.pid_exists(child)
