"""``prophrl doctor``: it sees what is wrong and says what to do, against genuine protocols where there are any."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prophrl_nodes.cli.main import main
from prophrl_nodes.studies.doctor import examine
from prophrl_nodes.studies.doctor_cell import examine_cell
from prophrl_nodes.studies.finding import Finding

from robot_bridge.twin.lab import Lab

ROOT = Path(__file__).parents[3]


def finding(findings: list[Finding], topic: str) -> Finding:
    return next(f for f in findings if f.topic == topic)


def hardware_cell(tmp_path: Path, host: str, **robot: object) -> str:
    """A cell file that says it is real, at an address of our choice."""
    cell = yaml.safe_load((ROOT / "config" / "cells" / "ur30e.yaml").read_text())
    cell["robot"] |= {"host": host, **robot}
    cell["gripper"]["host"] = host
    cell["leader"]["port"] = f"/dev/shm/prophrl-twin-{host}/leader"
    cell["camera"] |= {"device": "twin", "frames_path": f"/dev/shm/prophrl-twin-{host}"}
    path = tmp_path / "ur30e.yaml"
    path.write_text(yaml.safe_dump(cell))
    return str(path)


def test_every_problem_comes_with_an_action_and_every_finding_with_a_known_level(loopback_host: str) -> None:
    findings = list(examine("twin", loopback_host, Path(), quick=True))
    assert {f.level for f in findings} <= {"ok", "warning", "error"}
    assert all(f.action for f in findings if f.level != "ok")
    assert finding(findings, "ros").level == finding(findings, "python").level == "ok"
    assert finding(findings, "lab").message.startswith("the twin's ports")


def test_images_really_travel_between_two_processes_and_are_rendered(loopback_host: str) -> None:
    findings = list(examine("twin", loopback_host, Path()))
    assert "of 30 arrived" in finding(findings, "dds").message
    assert "renders with" in finding(findings, "rendering").message
    assert "MB/s" in finding(findings, "disk").message


def test_a_port_of_the_twin_that_is_taken_names_the_culprit(loopback_host: str) -> None:
    with socket.create_server((loopback_host, 30004)):
        lab = finding(list(examine_cell("twin", loopback_host)), "lab")
    assert lab.level == "error"
    assert f"{loopback_host}:30004 by process {os.getpid()}" in lab.message
    assert "--host" in lab.action


def test_a_cell_without_devices_fails_device_by_device(tmp_path: Path, loopback_host: str) -> None:
    findings = list(examine_cell(hardware_cell(tmp_path, loopback_host), ""))
    assert {f.topic for f in findings if f.level == "error"} == {"robot", "gripper", "leader", "camera"}
    assert "nothing answers on RTDE" in finding(findings, "robot").message


def test_an_unknown_cell_is_one_failure_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--quick", "--cell", "ur3e", "--json"]) == 1
    findings = json.loads(capsys.readouterr().out)
    assert "did you mean 'ur30e'?" in next(f["message"] for f in findings if f["topic"] == "cell")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """A running lab, to be looked at as if it were hardware."""
    with Lab("twin", f"127.{1 + os.getpid() // 250 % 250}.{1 + os.getpid() % 250}.251") as running:
        yield running


def test_devices_that_answer_in_their_own_protocols_are_well(lab: Lab, tmp_path: Path) -> None:
    findings = list(examine_cell(hardware_cell(tmp_path, lab.host), ""))
    assert finding(findings, "robot").level == "ok"
    assert finding(findings, "dashboard").message.startswith("UR30")
    assert finding(findings, "leader").level == "ok"
    assert "delivers 424x240" in finding(findings, "camera").message
    assert finding(list(examine_cell("twin", lab.host)), "lab").message.startswith("a lab is running")


def test_a_robot_of_another_kind_in_local_control_is_told(lab: Lab, tmp_path: Path) -> None:
    assert main(["twin", "fault", "not_in_remote", "--host", lab.host]) == 0
    findings = list(examine_cell(hardware_cell(tmp_path, lab.host, model="ur5e"), ""))
    said = " ".join(f.message for f in findings if f.topic == "dashboard")
    assert "the robot says it is a UR30, the cell file says ur5e" in said and "local control" in said
