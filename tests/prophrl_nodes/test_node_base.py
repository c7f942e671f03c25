"""What every node promises: refused parameters, lifecycle, diagnostics, clean stops."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from diagnostic_msgs.msg import DiagnosticStatus
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, SetParameters
from std_srvs.srv import Trigger

TRANSFORMS = "prophrl_nodes.nodes.transforms"
EXECUTOR = "prophrl_nodes.nodes.executor"


def number(name: str, value: float) -> Parameter:
    return Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_DOUBLE, double_value=value))


def test_an_unknown_parameter_is_refused_with_the_name_that_was_meant(graph: Any) -> None:
    process = graph.start(EXECUTOR, wait_seconds=2.0)
    assert process.wait() == 2
    assert "unknown parameter 'wait_seconds'" in process.log
    assert "did you mean 'wait_s'?" in process.log


def test_a_parameter_outside_its_range_is_refused_at_the_start(graph: Any) -> None:
    process = graph.start(EXECUTOR, rate_hz=5000.0)
    assert process.wait() == 2
    assert "parameter 'rate_hz' must lie in [20.0, 250.0], got 5000.0" in process.log


def test_a_parameter_of_the_wrong_type_is_refused_but_a_whole_number_is_a_number(graph: Any) -> None:
    wrong = graph.start(EXECUTOR, wait_s="soon")
    right = graph.start(EXECUTOR, wait_s="3")
    assert wrong.wait() == 2
    assert "parameter 'wait_s' must be of type float, got 'soon'" in wrong.log
    graph.wait_said("executor", "ready to engage")
    assert right.stop() == 0


def test_parameters_are_described_and_their_ranges_hold_while_the_node_runs(graph: Any) -> None:
    graph.start(EXECUTOR)
    request = DescribeParameters.Request(names=["wait_s", "rate_hz"])
    wait_s, rate_hz = graph.call(DescribeParameters, "executor/describe_parameters", request).descriptors
    assert wait_s.floating_point_range[0].to_value == 60.0
    assert "next one" in wait_s.description
    assert rate_hz.read_only

    request = SetParameters.Request(
        parameters=[number("wait_s", 600.0), number("wait_s", 2.0), number("rate_hz", 50.0), number("wait", 1.0)]
    )
    too_long, fine, read_only, unknown = graph.call(SetParameters, "executor/set_parameters", request).results
    assert not too_long.successful
    assert fine.successful
    assert not read_only.successful
    assert not unknown.successful


def test_an_unknown_cell_is_refused_with_the_names_there_are(graph: Any) -> None:
    process = graph.start(TRANSFORMS, cell="twinn")
    assert process.wait() == 1
    assert "no cell named 'twinn'" in process.log
    assert "did you mean 'twin'?" in process.log


def test_without_autostart_the_node_waits_for_its_transitions(graph: Any) -> None:
    graph.start(EXECUTOR, autostart="false")
    assert graph.call(GetState, "executor/get_state").current_state.label == "unconfigured"
    assert graph.wait_said("executor", "not active").level == DiagnosticStatus.STALE

    def change(transition: int) -> bool:
        request = ChangeState.Request(transition=Transition(id=transition))
        return bool(graph.call(ChangeState, "executor/change_state", request).success)

    assert change(Transition.TRANSITION_CONFIGURE)
    answer = graph.call(Trigger, "executor/engage")
    assert not answer.success
    assert "not active" in answer.message
    assert change(Transition.TRANSITION_ACTIVATE)
    graph.wait_said("executor", "ready to engage")
    assert change(Transition.TRANSITION_DEACTIVATE)
    assert change(Transition.TRANSITION_CLEANUP)
    assert change(Transition.TRANSITION_CONFIGURE)
    assert change(Transition.TRANSITION_ACTIVATE)
    assert graph.call(GetState, "executor/get_state").current_state.label == "active"


def test_lifecycle_shutdown_ends_the_process(graph: Any) -> None:
    process = graph.start(EXECUTOR)
    graph.wait_said("executor", "ready to engage")
    request = ChangeState.Request(transition=Transition(id=Transition.TRANSITION_ACTIVE_SHUTDOWN))
    assert graph.call(ChangeState, "executor/change_state", request).success
    assert process.wait() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_node_in_order_and_says_so(graph: Any, number: signal.Signals) -> None:
    process = graph.start(EXECUTOR)
    graph.wait_said("executor", "ready to engage")
    process.send(number)
    process.send(number)  # a launcher repeats what the terminal has sent
    assert process.wait() == 0
    graph.wait_said("executor", f"stopping: {number.name}")
    assert "Traceback" not in process.log


def test_verbs_wait_for_other_nodes_without_deadlock_on_the_classic_executor(graph: Any) -> None:
    graph.start(EXECUTOR, environment=graph.environment | {"PROPHRL_EXECUTOR": "single"})
    answer = graph.call(Trigger, "executor/engage")
    assert not answer.success
    assert "nobody serves" in answer.message
    assert "arm/command" in answer.message


def test_a_bare_start_finds_its_environment(graph: Any) -> None:
    bare = {
        "PATH": os.environ["PATH"],
        "ROS_DOMAIN_ID": str(graph.domain),
        "ROS_LOG_DIR": graph.environment["ROS_LOG_DIR"],
    }
    bare["_ROS_WHEELS_BOOTSTRAP_COMPLETE"] = "1"  # as inherited through sudo or systemd, without the library path
    process = graph.start(EXECUTOR, environment=bare)
    graph.wait_said("executor", "ready to engage")
    inherited = Path(f"/proc/{process.process.pid}/environ").read_text().split("\0")
    assert any(entry.startswith("FASTDDS_DEFAULT_PROFILES_FILE=") for entry in inherited)
    assert "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST" in inherited
    assert process.stop() == 0


BROKEN = """
    import sys
    from prophrl_nodes.ros import PeriodicThread, ProphNode, run

    class Broken(ProphNode):
        def __init__(self):
            super().__init__("broken")

        def setup(self):
            if {in_callback}:
                self.timer(0.01, self.work)

        def start(self):
            if not {in_callback}:
                PeriodicThread("work", 0.01, self.work, self.fail).start()

        def work(self):
            self.periods = getattr(self, "periods", 0) + bool(self.count_subscribers("/diagnostics"))
            if self.periods > 30:  # somebody listens to the last words
                raise ZeroDivisionError("a bug")

    sys.exit(run(Broken))
"""


@pytest.mark.parametrize("in_callback", [False, True])
def test_an_unforeseen_error_ends_the_node_with_its_traceback_on_the_log(
    graph: Any, tmp_path: Path, in_callback: bool
) -> None:
    (tmp_path / "broken_node.py").write_text(textwrap.dedent(BROKEN.format(in_callback=in_callback)))
    path = os.pathsep.join([str(tmp_path), *sys.path])
    process = graph.start("broken_node", environment=graph.environment | {"PYTHONPATH": path})
    assert process.wait() == 1
    assert "ZeroDivisionError: a bug" in process.log
    assert graph.wait_said("broken", "unexpected ZeroDivisionError").level == DiagnosticStatus.ERROR


def test_the_arm_goes_before_others_and_the_drift_check_after_them(graph: Any) -> None:
    asks = [sys.executable, "-c", "import os; os.setpriority(os.PRIO_PROCESS, 0, -8)"]
    may = subprocess.run(asks, stderr=subprocess.DEVNULL, check=False).returncode == 0
    arm, drift, executor = (graph.start(f"prophrl_nodes.nodes.{name}") for name in ("arm", "drift", "executor"))
    graph.wait_said("executor", "ready to engage")
    graph.wait_said("drift", "no episode checked yet")

    def niceness(process: Any) -> int:
        return os.getpriority(os.PRIO_PROCESS, process.process.pid)

    usual = os.getpriority(os.PRIO_PROCESS, 0)
    graph.until(lambda: niceness(arm) == (-8 if may else usual), "the arm to have asked for its place")
    graph.until(lambda: os.sched_getscheduler(drift.process.pid) == os.SCHED_IDLE, "the drift check to step back")
    assert niceness(executor) == usual
    assert os.sched_getscheduler(executor.process.pid) == os.sched_getscheduler(0)
