"""``prophrl`` itself: it starts fast, teaches, and says what was meant."""

from __future__ import annotations

import subprocess
import sys

import pytest
from prophrl_nodes.cli.main import COMMANDS, main

HEAVY = ("numpy", "scipy", "torch", "rclpy", "cv2", "mujoco", "yaml", "mcap", "rosbags", "tqdm", "zstandard")


def prophrl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "prophrl_nodes.cli.main", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def imported(*words: str) -> set[str]:
    """Heavy modules loaded by a command."""
    code = (
        "import contextlib, io, sys\n"
        "from prophrl_nodes.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "    main(sys.argv[1:])\n"
        f"print(*[m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_examples_and_needs_nothing_heavy(name: str) -> None:
    """Start-up below 0.3 s is a matter of what is not imported; PyYAML is allowed to launch, which reads YAML."""
    done = prophrl(name, "--help")
    assert done.returncode == 0 and f"prophrl {name}" in done.stdout
    assert done.stdout.count(f"  prophrl {name}") >= 2, "at least two examples"
    assert imported(name, "--help") <= ({"yaml", "numpy", "scipy"} if name == "launch" else set())


def test_the_overview_names_every_command_without_importing_any() -> None:
    done = prophrl("--help")
    assert done.returncode == 0
    for name, command in COMMANDS.items():
        assert name in done.stdout and command.summary in done.stdout
    assert imported("--help") == set()


def test_a_misspelt_command_is_answered_with_the_one_that_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lanch"]) == 2
    assert "did you mean 'launch'?" in capsys.readouterr().err


def test_no_command_is_wrong_usage_but_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "prophrl doctor" in capsys.readouterr().out


def test_explained_errors_are_one_line_without_a_trace(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bag", "info", "/no/such/bag"]) == 1
    said = capsys.readouterr().err
    assert said == "error: no bag at /no/such/bag; expected an .mcap file, or a folder with some below it\n"


def test_a_reader_that_stops_early_is_no_error() -> None:
    done = subprocess.run(
        f"{sys.executable} -m prophrl_nodes.cli.main twin fault | head -1",
        shell=True, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr and done.stdout.startswith("fault")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["demo", "--task", "place_cub"], "did you mean 'place_cube'?"),
        (["trials", "plan", "{tmp}", "--task", "grasp"], "tasks are grasp_bottle, place_cube"),
        (["dataset", "build", "{tmp}", "{tmp}/out", "--task", "bottle"], "unknown task 'bottle'"),
        (["twin", "status", "--cell", "twn"], "did you mean 'twin'?"),
        (["twin", "reset", "place_bowls"], "did you mean 'place_bowl'?"),
        (["twin", "reset", "--cell", "ur30e"], "is real hardware"),
        (["launch", "colect"], "did you mean 'collect'?"),
        (["launch", "collect", "epsodes:=3"], "did you mean 'episodes'?"),
        (["launch", "collect", "episodes=3"], "write NAME:=VALUE"),
        (["launch", "collect", "--dry-run", "task:=cube"], "choose one of grasp_bottle, place_cube"),
    ],
)
def test_unknown_names_are_answered_with_the_choices(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: object
) -> None:
    assert main([word.replace("{tmp}", str(tmp_path)) for word in words]) == 1
    assert message in capsys.readouterr().err


def test_a_full_disk_is_said_in_one_line() -> None:
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-u", "-m", "prophrl_nodes.cli.main", "twin", "fault"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: the disk is full; make room, the same command goes on where it can\n"
