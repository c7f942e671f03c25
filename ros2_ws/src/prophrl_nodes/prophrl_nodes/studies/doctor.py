"""What ``prophrl doctor`` looks at: each check returns what it found and, when something is wrong, what to do.

Checks that need ROS or OpenGL run in processes of their own: a broken installation must not take the doctor with it.
"""

from __future__ import annotations

import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prophrl_nodes.environment import clean_shared_memory, ros_environment, runs_on_wheels
from prophrl_nodes.studies.doctor_cell import examine_cell
from prophrl_nodes.studies.finding import Finding

SHM = Path("/dev/shm")
SHM_NEEDED_BYTES = 256_000_000
RECORDING_MBPS = 16.0
"""Colour and depth of a 424x240 camera at 30 Hz with everything else: what the recorder writes."""
_MINUTES = 30


def examine(cell: str, host: str, output: Path, *, quick: bool = False) -> Iterator[Finding]:
    """Run all checks in order, each finding as soon as it is known.

    Args:
        cell: cell name or path, whose devices are checked.
        host: replaces ``{host}`` in the cell file.
        output: where bags will be written.
        quick: leave out what takes more than a moment.
    """
    yield _python()
    yield from _ros(quick)
    yield from _shared_memory()
    if not quick:
        yield _rendering()
    yield _disk(output, quick)
    yield from _processor(quick)
    yield _gpu()
    yield from examine_cell(cell, host)


def _python() -> Finding:
    version = platform.python_version()
    if not (3, 10) <= sys.version_info[:2] <= (3, 12) or platform.machine() != "x86_64":
        message = f"Python {version} on {platform.machine()}: the robot's libraries have no builds for it"
        return Finding("python", "error", message, "use Python 3.10 to 3.12 on x86-64 (3.11 is best)")
    return Finding("python", "ok", f"{version} in {sys.prefix}")


def _ros(quick: bool) -> Iterator[Finding]:
    origin = "wheels from PyPI" if runs_on_wheels() else os.environ.get("ROS_DISTRO", "")
    script = "import rclpy, prophrl_interfaces.msg, prophrl_interfaces.action; print(rclpy.__file__)"
    code, said = _run([sys.executable, "-c", script])
    if code != 0:
        install = "make setup (wheels), or source /opt/ros/<distro>/setup.bash and the colcon workspace"
        yield Finding("ros", "error", f"rclpy or prophrl_interfaces cannot be imported: {_last(said)}", install)
        return
    rmw = ros_environment().get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    level = "ok" if rmw == "rmw_fastrtps_cpp" else "warning"
    action = "" if level == "ok" else "only Fast DDS is tuned for images here: unset RMW_IMPLEMENTATION"
    yield Finding("ros", level, f"ROS 2 ({origin or 'sourced'}), our interfaces, {rmw}", action)
    if not quick:
        yield _dds()


def _dds() -> Finding:
    """Send images between two processes, as camera and policy do."""
    code, said = _run([sys.executable, "-m", "prophrl_nodes.studies.dds_probe"], timeout_s=30.0)
    if code != 0:
        action = "check /dev/shm (below), firewalls on loopback, and ROS_DOMAIN_ID (0..101)"
        return Finding("dds", "error", f"no images from one process to another: {_last(said)}", action)
    median_ms, worst_ms, received, sent = (float(x) for x in said.split()[-4:])
    message = f"424x240 images in {median_ms:.1f} ms (worst {worst_ms:.1f}), {received:.0f} of {sent:.0f} arrived"
    if received < 0.9 * sent or median_ms > 20.0:
        action = "is the machine busy? is another Fast DDS profile in force (FASTDDS_DEFAULT_PROFILES_FILE)?"
        return Finding("dds", "warning", message, action)
    return Finding("dds", "ok", message)


def _shared_memory() -> Iterator[Finding]:
    usage = shutil.disk_usage(SHM)
    if usage.total < SHM_NEEDED_BYTES:
        message = f"{SHM} has {usage.total / 1e6:.0f} MB: images between processes will fail"
        yield Finding("shm", "error", message, "in Docker start the container with --shm-size=1g")
    elif usage.free < SHM_NEEDED_BYTES:
        yield Finding("shm", "warning", f"{SHM} is nearly full", "look for large files in it; stop unused nodes")
    else:
        yield Finding("shm", "ok", f"{SHM} has {usage.free / 1e9:.1f} GB free")
    removed = clean_shared_memory()
    if removed:
        yield Finding("shm", "ok", f"removed {len(removed)} files that killed ROS processes had left there")


def _rendering() -> Finding:
    script = (
        "import mujoco, sys\n"
        'm = mujoco.MjModel.from_xml_string(\'<mujoco><worldbody><light pos="0 0 3"/>'
        '<geom type="box" size=".1 .1 .1"/></worldbody></mujoco>\')\n'
        "d = mujoco.MjData(m); mujoco.mj_forward(m, d)\n"
        "r = mujoco.Renderer(m, 48, 64); r.update_scene(d); print('pixels', int(r.render().max())); r.close()"
    )
    tried = []
    for backend in [os.environ["MUJOCO_GL"]] if "MUJOCO_GL" in os.environ else ["osmesa", "egl"]:
        code, said = _run([sys.executable, "-c", script], timeout_s=30.0, MUJOCO_GL=backend)
        if code == 0 and "pixels" in said and not said.strip().endswith("pixels 0"):
            return Finding("rendering", "ok", f"the twin's camera renders with {backend}")
        tried.append(f"{backend}: {_last(said)}")
    action = "apt install libosmesa6 (or libegl1 libegl-mesa0 libgl1-mesa-dri); only the twin needs it"
    return Finding("rendering", "error", f"no off-screen OpenGL ({'; '.join(tried)})", action)


def _disk(output: Path, quick: bool) -> Finding:
    folder = next(p for p in [output.resolve(), *output.resolve().parents] if p.exists())
    free = shutil.disk_usage(folder).free
    minutes = free / (RECORDING_MBPS * 1e6) / 60.0
    message = f"{free / 1e9:.0f} GB free in {folder}: {minutes:.0f} minutes of recording"
    if not quick:
        speed_mbps = _write_speed_mbps(folder)
        message += f", writes {speed_mbps:.0f} MB/s"
        if speed_mbps < 2.0 * RECORDING_MBPS:
            action = f"recording needs {RECORDING_MBPS:.0f} MB/s without a pause: use a faster disk"
            return Finding("disk", "warning", message, action)
    if minutes < _MINUTES:
        return Finding("disk", "warning", message, "make room, or: prophrl bag compress BAGS")
    return Finding("disk", "ok", message)


def _write_speed_mbps(folder: Path, size: int = 64_000_000) -> float:
    block = os.urandom(1_000_000)
    try:
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            begin_s = time.monotonic()
            for _ in range(size // len(block)):
                file.write(block)
            file.flush()
            os.fsync(file.fileno())
            return size / 1e6 / (time.monotonic() - begin_s)
    except OSError:
        return 0.0


def _processor(quick: bool) -> Iterator[Finding]:
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    message = f"{cores} cores, load {load:.1f}"
    if cores < 2 or load > cores:
        yield Finding("processor", "warning", message, "the twin needs two idle cores; stop what else is running")
    else:
        yield Finding("processor", "ok", message)
    if quick:
        return
    lateness_ms = _timer_lateness_ms()
    realtime = Path("/sys/kernel/realtime").exists() or "PREEMPT_RT" in platform.version()
    priority = resource.getrlimit(resource.RLIMIT_RTPRIO)[0]
    message = f"a 500 Hz loop wakes {lateness_ms:.2f} ms late (99 %), real-time kernel: {'yes' if realtime else 'no'}, "
    message += f"real-time priority {'allowed' if priority or os.geteuid() == 0 else 'not allowed'}"
    if lateness_ms > 2.0:
        action = "on a robot use an idle machine; a low-latency or PREEMPT_RT kernel and rtprio in limits.conf help"
        yield Finding("timing", "warning", message, action)
    else:
        yield Finding("timing", "ok", message)


def _timer_lateness_ms(period_s: float = 0.002, ticks: int = 250) -> float:
    late_s = []
    due_s = time.monotonic()
    for _ in range(ticks):
        due_s += period_s
        time.sleep(max(0.0, due_s - time.monotonic()))
        late_s.append(time.monotonic() - due_s)
    return 1e3 * sorted(late_s)[int(0.99 * ticks)]


def _gpu() -> Finding:
    query = ["nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"]
    code, said = _run(query) if shutil.which("nvidia-smi") else (1, "")
    if code != 0 or not said.strip():
        return Finding("gpu", "ok", "none; the small policy runs on the processor")
    return Finding("gpu", "ok", said.strip().splitlines()[0])


def _run(command: list[str], timeout_s: float = 20.0, **variables: str) -> tuple[int, str]:
    """Exit code and everything a process said."""
    environment = ros_environment() | variables
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired:
        return 124, f"no end after {timeout_s:.0f} s"
    return done.returncode, done.stderr + done.stdout if done.returncode else done.stdout


def _last(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
