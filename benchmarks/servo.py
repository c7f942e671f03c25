#!/usr/bin/env python3
"""The servo path on the twin: tick lateness of the controller, jitter of our 500 Hz loop next to ur_rtde's own pacing.

The whole lab runs (controller with physics, renderer, servo bus). Both ways send 500 Hz servoJ setpoints for the same
time in one run; a setpoint's lateness is counted against an absolute 2 ms grid.
"""

from __future__ import annotations

import argparse
import math
import os
import resource
import time

import numpy as np
from rtde_control import RTDEControlInterface

from robot_bridge.twin.lab import Lab
from robot_bridge.twin.lab_client import LabClient
from robot_bridge.ur_arm import UrArm

PERIOD_S = 0.002
HOST = "127.9.0.1"


def wave(q_home: np.ndarray, t_s: float) -> list[float]:
    """A slow motion of two joints around home, well inside the envelope."""
    q = q_home.copy()
    q[0] += 0.06 * math.sin(0.8 * t_s)
    q[4] += 0.10 * math.sin(0.5 * t_s)
    return [float(value) for value in q]


def ours(lab: Lab, seconds: float) -> dict[str, float]:
    """UrArm follows 100 Hz targets."""
    arm = UrArm(lab.cell.robot, lab.cell.safety)
    arm.connect()
    try:
        arm.move_home()
        q_home = np.array(arm.measured().q)
        arm.engage("benchmark")
        used, start = cpu_seconds(), time.monotonic()
        while (t_s := time.monotonic() - start) < seconds:
            arm.set_joint_target(wave(q_home, t_s))
            time.sleep(0.01)
        cpu = 100 * (cpu_seconds() - used) / (time.monotonic() - start)
        arm.disengage()
        figures = arm.pace()
        sent = figures["sent"]
    finally:
        arm.close()
    return {
        "p50": figures["late_p50_ms"],
        "p99": figures["late_p99_ms"],
        "p99.9": figures["late_p999_ms"],
        "rate": sent / seconds,
        "cpu": cpu,
    }


def plain(lab: Lab, seconds: float) -> dict[str, float]:
    """The loop of ur_rtde's documentation: initPeriod, servoJ, waitPeriod."""
    control = RTDEControlInterface(lab.cell.robot.host, 500.0)
    starts: list[float] = []
    try:
        q_home = np.array(lab.cell.robot.home_rad)
        used, start = cpu_seconds(), time.monotonic()
        while (t_s := time.monotonic() - start) < seconds:
            begin = control.initPeriod()
            starts.append(t_s)
            control.servoJ(wave(q_home, t_s), 0.0, 0.0, PERIOD_S, 0.05, 600.0)
            control.waitPeriod(begin)
        cpu = 100 * (cpu_seconds() - used) / (time.monotonic() - start)
        control.servoStop()
    finally:
        control.stopScript()
        control.disconnect()
    sent_s = np.array(starts)
    late_ms = 1e3 * (sent_s - sent_s[0] - PERIOD_S * np.arange(len(sent_s)))
    p50, p99, p999 = np.percentile(late_ms, [50, 99, 99.9])
    return {"p50": float(p50), "p99": float(p99), "p99.9": float(p999), "rate": len(starts) / seconds, "cpu": cpu}


def cpu_seconds() -> float:
    """Processor time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    seconds = parser.parse_args().seconds
    with Lab("twin", HOST) as lab:
        client = LabClient(HOST, lab.cell.twin.lab_port)
        rows = {"ours": ours(lab, seconds), "initPeriod": plain(lab, seconds)}
        status = client.status()
    print(f"{os.cpu_count()} cores; {seconds:.0f} s each, whole lab running")
    print("controller: " + ", ".join(f"{k} {v:.3f}" for k, v in status.items() if k.startswith(("late", "real"))))
    print(f"{'servo loop':>12} {'late p50 ms':>12} {'p99':>8} {'p99.9':>8} {'rate Hz':>8} {'CPU %':>6}")
    for name, row in rows.items():
        print(
            f"{name:>12} {row['p50']:12.3f} {row['p99']:8.3f} {row['p99.9']:8.3f} {row['rate']:8.1f} {row['cpu']:6.1f}"
        )
    print(f"initPeriod / ours: lateness p99 {rows['initPeriod']['p99'] / rows['ours']['p99']:.1f}x (drift included)")


if __name__ == "__main__":
    main()
