"""What a process needs in its environment before it may speak ROS 2; everything peculiar to the PyPI wheels.

Two kinds of machine are served by the same code. With ROS 2 from apt the user has sourced a setup file and only
Fast DDS is tuned for images. With the ROS 2 wheels there is no setup file: the library path comes from a bootstrapper
in the virtual environment, AMENT_PREFIX_PATH from here. Variables that the user has set are never changed.
"""

from __future__ import annotations

import fcntl
import importlib.util
import os
import re
import sys
import time
from collections.abc import Mapping, MutableMapping
from pathlib import Path

RESOURCES = Path(__file__).resolve().parent / "resources"

# The wheels' bootstrapper re-executes Python once to put the libraries on the path, guarded by this variable.
_BOOTSTRAP_GUARD = "_ROS_WHEELS_BOOTSTRAP_COMPLETE"
_LOCK_SUFFIX = re.compile(r"_[es]l$")
_REEXECUTED = "PROPHRL_ENVIRONMENT_APPLIED"

# One image per frame is allocated and freed in every process that touches it. glibc would ask the kernel for fresh,
# zeroed pages each time; kept in the heap, an image costs half the latency.
_KEEP_IMAGES_IN_HEAP = {
    "MALLOC_MMAP_THRESHOLD_": "67108864",
    "MALLOC_TRIM_THRESHOLD_": "536870912",
    "MALLOC_TOP_PAD_": "33554432",
}


def runs_on_wheels() -> bool:
    """True when ROS 2 comes from PyPI wheels in this Python environment, False beside an apt installation."""
    return importlib.util.find_spec("ros_wheels_bootstrapper") is not None


def ros_environment(domain_id: int | None = None, base: Mapping[str, str] | None = None) -> dict[str, str]:
    """The complete environment for a ROS 2 process of this installation.

    Args:
        domain_id: ROS_DOMAIN_ID to set; None keeps what ``base`` says.
        base: environment to extend, ``os.environ`` when omitted.
    """
    environment = dict(os.environ if base is None else base)
    if domain_id is not None:
        environment["ROS_DOMAIN_ID"] = str(domain_id)
    # A robot that any machine in the building can command is no good default; SUBNET is one variable away.
    environment.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    for name, value in _KEEP_IMAGES_IN_HEAP.items():
        environment.setdefault(name, value)
    if environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp") == "rmw_fastrtps_cpp":
        _set_profile(environment)
    if runs_on_wheels():
        _set_wheel_paths(environment)
    return environment


def ensure_environment() -> None:
    """Re-execute this process once when its environment lacks something; returns at once when it is complete.

    Call it before rclpy is imported and before any thread is started: the allocator and the dynamic linker read
    their variables only when a process begins.
    """
    wanted = ros_environment()
    if all(os.environ.get(name) == value for name, value in wanted.items()) and not _broken_guard(os.environ):
        return
    if os.environ.get(_REEXECUTED) == str(os.getpid()):
        return
    # The process id survives exec but not fork: a child with a scrubbed environment may re-execute again.
    wanted[_REEXECUTED] = str(os.getpid())
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], wanted)


def started_as_module() -> bool:
    """True while ``python -m package.module`` is still importing the parents of the module it will run."""
    return bool(sys.argv) and sys.argv[0] == "-m"


def clean_shared_memory(directory: Path = Path("/dev/shm"), minimum_age_s: float = 10.0) -> list[str]:
    """Remove what killed Fast DDS processes left in shared memory; returns the names of the removed files.

    Every segment or port in use has a lock file (``*_el`` exclusive, ``*_sl`` shared) that its process keeps locked,
    and the kernel lets go of the lock when the process dies. Files younger than ``minimum_age_s`` are left alone: their
    owner may be between creating and locking them.
    """
    removed = []
    for stem in sorted({_LOCK_SUFFIX.sub("", path.name) for path in directory.glob("fastdds_*")}):
        files = [directory / stem, directory / f"{stem}_el", directory / f"{stem}_sl"]
        if any(file.exists() and not _abandoned(file, minimum_age_s) for file in files):
            continue
        for path in (*files, directory / f"sem.{stem}_mutex"):
            if path.exists():
                path.unlink(missing_ok=True)
                removed.append(path.name)
    return removed


def _abandoned(path: Path, minimum_age_s: float) -> bool:
    try:
        with path.open("rb") as file:
            if time.time() - os.fstat(file.fileno()).st_mtime < minimum_age_s:
                return False
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, FileNotFoundError, PermissionError):
        return False  # in use, already gone, or another user's
    return True


def _set_profile(environment: MutableMapping[str, str]) -> None:
    """Point Fast DDS at our profile, unless the user has one; version 2 (up to Jazzy) reads another variable."""
    old, new = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
    ours = ("", str(RESOURCES / "fastdds.xml"), str(RESOURCES / "fastdds_network.xml"))
    if any(environment.get(name, "") not in ours for name in (old, new)):
        return
    name = old if environment.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else new
    on_one_machine = environment["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    environment[name] = str(RESOURCES / ("fastdds.xml" if on_one_machine else "fastdds_network.xml"))


def _set_wheel_paths(environment: MutableMapping[str, str]) -> None:
    prefixes = [prefix for prefix in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    if sys.prefix not in prefixes:
        environment["AMENT_PREFIX_PATH"] = os.pathsep.join([*prefixes, sys.prefix])
    if _broken_guard(environment):
        del environment[_BOOTSTRAP_GUARD]


def _broken_guard(environment: Mapping[str, str]) -> bool:
    """The bootstrapper's guard was inherited without the library path (sudo, systemd, another environment)."""
    libraries = os.path.join(sys.prefix, "lib")
    on_path = libraries in environment.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    return _BOOTSTRAP_GUARD in environment and runs_on_wheels() and not on_path
