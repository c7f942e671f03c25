"""The doctor at the robot: speaks a few words of each protocol, because an open port alone proves little."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator

from prophrl_nodes.studies.finding import Finding
from robot_bridge.cell import CellConfig

TIMEOUT_S = 2.0
_RTDE_VERSION_REQUEST = struct.pack(">HBH", 5, ord("V"), 2)


def examine_robot(config: CellConfig) -> Iterator[Finding]:
    """RTDE, and on PolyScope 5 the dashboard: model, remote control, safety."""
    host = config.robot.host
    rtde = _ask(host, 30004, _RTDE_VERSION_REQUEST, 4)
    if rtde is None or rtde[2:3] != b"V":
        said = "nothing answers" if rtde is None else "something that is no UR controller answers"
        action = "controller on? cable? robot.host right? same subnet? RTDE allowed (Settings, Security, Services)?"
        yield Finding("robot", "error", f"{said} on RTDE at {host}:30004", action)
        return
    yield Finding("robot", "ok", f"a UR controller answers on RTDE at {host}")
    if config.robot.dashboard:
        yield from _dashboard(config)


def _dashboard(config: CellConfig) -> Iterator[Finding]:
    host = config.robot.host
    questions = ("get robot model", "is in remote control", "safetystatus", "robotmode")
    answers = _dashboard_answers(host, questions)
    if answers is None:
        action = "allow the dashboard server (Settings, Security, Services); on PolyScope X set dashboard: false"
        yield Finding("dashboard", "error", f"no dashboard server at {host}:29999", action)
        return
    model, remote, safety, mode = answers
    if config.robot.model.lower().rstrip("e") != model.lower().rstrip("e"):
        message = f"the robot says it is a {model}, the cell file says {config.robot.model}"
        yield Finding("dashboard", "error", message, "correct robot.model, or robot.host: is it another robot?")
    if "true" not in remote.lower():
        action = "switch it to remote control at the top right of the pendant"
        yield Finding("dashboard", "error", "the robot is in local control: commands will be refused", action)
    if "NORMAL" not in safety.upper() and "REDUCED" not in safety.upper():
        action = "see what stopped it, make it safe, then acknowledge on the pendant or with the arm's recover verb"
        yield Finding("dashboard", "error", f"the robot is stopped: {safety}", action)
    else:
        yield Finding("dashboard", "ok", f"{model}, {mode}, {safety}")


def examine_gripper(config: CellConfig) -> Finding:
    """Ask the Robotiq cap for the gripper's status."""
    host, port = config.gripper.host, config.gripper.port
    answer = _ask(host, port, b"GET STA\n", 5)
    if answer is None or not answer.startswith(b"STA"):
        action = "install the Robotiq URCap, power the arm, and check the tool connector"
        return Finding("gripper", "error", f"no Robotiq cap at {host}:{port}", action)
    if b"?" in answer:
        return Finding("gripper", "error", "the cap does not reach the gripper", "power the arm, check the tool cable")
    return Finding("gripper", "ok", f"the Robotiq cap answers at {host}:{port}")


def _ask(host: str, port: int, question: bytes, least: int) -> bytes | None:
    """At least ``least`` bytes of answer to one question, None when there is none."""
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as connection:
            connection.settimeout(TIMEOUT_S)
            connection.sendall(question)
            answer = b""
            while len(answer) < least:
                data = connection.recv(256)
                if not data:
                    return None
                answer += data
            return answer
    except OSError:
        return None


def _dashboard_answers(host: str, questions: tuple[str, ...]) -> list[str] | None:
    try:
        with socket.create_connection((host, 29999), TIMEOUT_S) as connection, connection.makefile("rw") as lines:
            connection.settimeout(TIMEOUT_S)
            if "Dashboard" not in lines.readline():
                return None
            answers = []
            for question in questions:
                lines.write(f"{question}\n")
                lines.flush()
                answers.append(lines.readline().strip())
            return answers
    except (OSError, UnicodeDecodeError):
        return None
