#!/usr/bin/env python3
"""Turn a bare machine (Python 3.10-3.12, git, make) into one that runs prophrl, with ROS 2 from PyPI.

Standard library only: this file runs before anything is installed. Each step records a stamp made of what
it depends on, so a second run takes a moment and an interrupted run goes on where it stopped. A machine
with ROS 2 from apt does not need this: see docs/install.md.
"""

from __future__ import annotations

import argparse
import ctypes.util
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXTRAS = "ros,ros-build,hardware,twin,train,serve,console,dev"
PYTHON_RANGE = ((3, 10), (3, 12))


class SetupError(RuntimeError):
    """A step that cannot go on; the message says what to do."""


def say(text: str) -> None:
    """Print a line at once, so that it stands before the output of the command that follows."""
    print(text, flush=True)


def digest(*parts: str | Path) -> str:
    """Short hash of strings and file contents, in order."""
    hasher = hashlib.sha256()
    for part in parts:
        hasher.update(part.read_bytes() if isinstance(part, Path) else part.encode())
        hasher.update(b"\0")
    return hasher.hexdigest()[:16]


def run(command: Sequence[str | Path], log: Path, *, env: dict[str, str] | None = None) -> None:
    """Run a command with its output in a log file; a dot each two seconds shows that it lives.

    Raises:
        SetupError: the command failed; the message ends with the log's last lines.
    """
    with log.open("w") as out:
        process = subprocess.Popen([str(part) for part in command], stdout=out, stderr=subprocess.STDOUT, env=env)
        while True:
            try:
                code = process.wait(timeout=2.0)
                break
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
    if code != 0:
        tail = "\n".join("    " + line for line in log.read_text(errors="replace").splitlines()[-15:])
        begin = " ".join(str(part) for part in command[:6])
        raise SetupError(f"`{begin} ...` ended with {code}:\n{tail}\n  log: {log}")


class Steps:
    """Runs named steps once per content stamp and tells how long each took."""

    def __init__(self, venv: Path) -> None:
        self.stamps = venv / "prophrl-setup"
        self.stamps.mkdir(parents=True, exist_ok=True)

    def once(self, name: str, stamp: str, action: Callable[[Path], None]) -> None:
        """Run ``action(log_path)`` unless it already succeeded for this stamp."""
        record = self.stamps / f"{name}.stamp"
        if record.is_file() and record.read_text() == stamp:
            return
        print(f"set-up: {name} ", end="", flush=True)
        start = time.monotonic()
        action(self.stamps / f"{name}.log")
        record.write_text(stamp)
        say(f" {time.monotonic() - start:.0f} s")


def check_python() -> None:
    """Refuse interpreters the ROS and ur_rtde wheels do not exist for."""
    low, high = PYTHON_RANGE
    if not low <= sys.version_info[:2] <= high:
        raise SetupError(
            f"Python {sys.version.split()[0]} has no wheels of ROS 2 and ur_rtde; use 3.10, 3.11 or 3.12, "
            "for example: make PYTHON=python3.11 setup"
        )


def missing_system_packages() -> list[str]:
    """Debian/Ubuntu packages for what PyPI cannot bring: off-screen GL, a compiler, Python's headers and venv."""
    missing = []
    if ctypes.util.find_library("OSMesa") is None:
        missing.append("libosmesa6")
    if shutil.which("c++") is None:
        missing.append("g++")
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-dev")
    try:
        import ensurepip  # noqa: F401
        import venv  # noqa: F401
    except ImportError:
        missing.append(f"python{sys.version_info[0]}.{sys.version_info[1]}-venv")
    return missing


def install_system_packages() -> None:
    """Install what is missing when allowed to, otherwise say the exact command.

    Raises:
        SetupError: something is missing and neither root, password-free sudo nor apt-get is at hand.
    """
    missing = missing_system_packages()
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    sudo: list[str] = []
    if os.geteuid() != 0:
        sudo = ["sudo", "-n"]
    can_sudo = not sudo or (
        shutil.which("sudo") is not None and subprocess.run([*sudo, "true"], capture_output=True).returncode == 0
    )
    if shutil.which("apt-get") is None or not can_sudo:
        raise SetupError(
            f"these system packages are missing: {' '.join(missing)}\n"
            f"  run: sudo {' '.join(command)}\n"
            "  and start again (other distributions: the packages of the same content)"
        )
    say(f"set-up: installing {' '.join(missing)}")
    log = Path(os.environ.get("TMPDIR", "/tmp")) / f"prophrl-apt-{os.getpid()}.log"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    run([*sudo, "apt-get", "update"], log, env=environment)
    run([*sudo, *command], log, env=environment)
    log.unlink()
    print(flush=True)


def build_interfaces(venv: Path, package: Path, log: Path) -> None:
    """Generate and compile one interface package into the venv with the wheels' own rosidl tools."""
    python = venv / "bin/python"
    numpy_include = subprocess.check_output(
        [python, "-c", "import numpy; print(numpy.get_include())"], text=True
    ).strip()
    environment = {
        **os.environ,
        "PATH": f"{venv}/bin:{os.environ['PATH']}",
        "AMENT_PREFIX_PATH": str(venv),
        "CMAKE_PREFIX_PATH": str(venv),
    }
    build = venv / "prophrl-setup" / f"build-{package.name}"
    shutil.rmtree(build, ignore_errors=True)
    cmake = venv / "bin/cmake"
    run(
        [
            cmake, "-S", package, "-B", build, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_TESTING=OFF",
            f"-DPython3_EXECUTABLE={python}", f"-DCMAKE_INSTALL_PREFIX={venv}",
            f"-DCMAKE_PROJECT_{package.name}_INCLUDE={ROOT}/ros2_ws/setup/wheel_targets.cmake",
            f"-DPROPHRL_PYTHON_INCLUDE={sysconfig.get_path('include')}", f"-DPROPHRL_NUMPY_INCLUDE={numpy_include}",
        ],
        log,
        env=environment,
    )  # fmt: skip
    run([cmake, "--build", build, "--target", "install"], log, env=environment)
    shutil.rmtree(build, ignore_errors=True)


def link_share(venv: Path) -> None:
    """Make the editable install visible to ROS's own tools, which look packages up under the venv.

    ``ros2 launch`` walks share/<package> without following directory links, so directories are real and
    files are links to the checkout.
    """
    nodes = ROOT / "ros2_ws/src/prophrl_nodes"
    trees = {
        "share/prophrl/launch": ROOT / "launch",
        "share/prophrl/config": ROOT / "config",
        "lib/prophrl_nodes": nodes / "scripts",
    }
    for target, source in trees.items():
        shutil.rmtree(venv / target, ignore_errors=True)
        for file in sorted(source.rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                link = venv / target / file.relative_to(source)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(file)
    for name, package_xml in {"prophrl": ROOT / "package.xml", "prophrl_nodes": nodes / "package.xml"}.items():
        marker = venv / "share/ament_index/resource_index/packages" / name
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.touch()
        link = venv / "share" / name / "package.xml"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(package_xml)


def set_up(venv: Path) -> None:
    """All steps, in order; what is already done costs nothing."""
    check_python()
    install_system_packages()
    steps = Steps(venv)
    python_tag = f"{sys.version_info[0]}.{sys.version_info[1]}"
    steps.once("environment", digest(python_tag, str(venv)), lambda log: run([sys.executable, "-m", "venv", venv], log))
    pip = [venv / "bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off"]
    nodes = ROOT / "ros2_ws/src/prophrl_nodes"
    projects = digest(ROOT / "pyproject.toml", nodes / "pyproject.toml", str(ROOT))
    steps.once("packages", projects, lambda log: run([*pip, "-e", f"{ROOT}[{EXTRAS}]", "-e", nodes], log))
    for package in (ROOT / "ros2_ws/wheel_only/tf2_msgs", ROOT / "ros2_ws/src/prophrl_interfaces"):
        sources = sorted(p for p in package.rglob("*") if p.is_file())
        stamp = digest(python_tag, projects, *(str(p.relative_to(package)) for p in sources), *sources)
        steps.once(package.name, stamp, lambda log, package=package: build_interfaces(venv, package, log))  # type: ignore[misc]
    link_share(venv)


def main() -> int:
    parser = argparse.ArgumentParser(description="Set up prophrl in a virtual environment (idempotent).")
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", help="where (default: .venv in the checkout)")
    arguments = parser.parse_args()
    try:
        set_up(arguments.venv.resolve())
    except (SetupError, subprocess.CalledProcessError, OSError) as error:
        say(f"\nset-up stopped: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
