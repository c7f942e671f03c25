"""Executes a policy's action chunks: integrates the deltas and streams TCP targets to the arm at 100 Hz.

Subscribes to ``policy/chunk``, ``tcp_pose_broadcaster/pose`` and ``servo/status``; publishes ``servo/target`` and
``executor/status``. Verbs: ``~/engage``, ``~/disengage``. After the last action of a chunk the final pose is repeated
for ``wait_s`` seconds; when no new chunk comes in that time the targets stop and the arm's watchdog holds the arm.

A chunk may continue the one in execution (``follows``): it takes over at the row that is due, without a jump. When such
a chunk is late the old one is executed to its end, and the arm waits there as above; delays are counted.
"""

from __future__ import annotations

import math
import sys
import threading
import time
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from prophrl_interfaces.msg import ActionChunk, ExecutorStatus, ServoTarget

from prophrl_nodes import qos
from prophrl_nodes.arm_link import ArmLink
from prophrl_nodes.chunk_player import Chunk, ChunkError, ChunkPlayer, PlayerState, Setpoint
from prophrl_nodes.messages import header, to_matrix, to_pose, to_stamp
from prophrl_nodes.ros import Health, Level, ParameterSpec, PeriodicThread, ProphNode, Refused, Value, run

SOURCE = "executor"
POSE_TIMEOUT_S = 0.5

PARAMETERS = (
    ParameterSpec("rate_hz", 100.0, "targets per second sent to the arm", minimum=20.0, maximum=250.0),
    ParameterSpec(
        "wait_s", 3.0, "seconds to wait at a chunk's final pose for the next one", 0.1, 60.0, changeable=True
    ),
    ParameterSpec(
        "reference_tolerance_m",
        0.05,
        "a chunk whose reference pose is farther than this from the measured TCP is refused: it was made elsewhere",
        minimum=0.005,
        maximum=1.0,
        changeable=True,
    ),
)


class ExecutorNode(ProphNode):
    """See the module's docstring."""

    def __init__(self, **node_arguments: Any) -> None:
        super().__init__("executor", PARAMETERS, **node_arguments)

    def setup(self) -> None:
        """Connect the topics."""
        self._player = ChunkPlayer(self.value("wait_s"))
        self._lock = threading.Lock()  # chunks arrive in the executor's thread, targets leave from their own
        self._engaged = False
        self._dropped = ""
        self._refusal = ""
        self._refused = self._played = 0
        self._seams = self._delays = 0
        self._waited_s = self._worst_jump_m = 0.0
        self._measured_position: np.ndarray[Any, Any] | None = None
        self._measured_s = -math.inf
        self._said: tuple[int, int, int, str] | None = None
        self._target = ServoTarget(source=SOURCE, mode=ServoTarget.TCP_POSE)
        self._targets = self.publisher(ServoTarget, "servo/target", qos.COMMAND)
        self._status = self.publisher(ExecutorStatus, "executor/status", qos.STATE)
        self._arm = ArmLink(self, SOURCE)
        self.subscribe(ActionChunk, "policy/chunk", self._on_chunk, qos.COMMAND)
        self.subscribe(PoseStamped, "tcp_pose_broadcaster/pose", self._on_pose, qos.STREAM)
        self.timer(0.05, self._watch)
        self.verb("engage", self._engage)
        self.verb("disengage", self._disengage)

    def start(self) -> None:
        """Start the thread that streams targets."""
        self._thread = PeriodicThread("executor-targets", 1.0 / self.value("rate_hz"), self._stream, self.fail)
        self._thread.start()

    def halt(self) -> None:
        """Send no more targets and let go of the arm; without our word its watchdog would hold it as well."""
        self._engaged = False
        if hasattr(self, "_thread"):
            self._thread.stop()
        self._arm.let_go()

    def health(self) -> Health:
        """Engaged or why not, and the progress of the chunk."""
        player = self._player
        values: dict[str, Value] = {
            "engaged": self._engaged,
            "state": player.state.name,
            "chunk": player.sequence,
            "step": player.executed,
            "chunks_played": self._played,
            "chunks_refused": self._refused,
            "seams": self._seams,
            "seam_jump_m": player.seam.jump_m if player.seam else 0.0,
            "seam_jump_worst_m": self._worst_jump_m,
            "delays": self._delays,
            "delays_total_s": self._waited_s,
            "targets": int(self._target.sequence),
        }
        if self._refusal:
            return Health(Level.ERROR, f"chunk refused: {self._refusal}", values)
        if self._dropped:
            return Health(Level.WARN, f"disengaged: {self._dropped}", values)
        if not self._engaged:
            return Health(Level.OK, "ready to engage", values)
        if player.state is PlayerState.EXECUTING:
            return Health(Level.OK, "engaged: executing a chunk", values)
        if player.reason:
            return Health(Level.WARN, f"engaged: {player.reason}", values)
        return Health(Level.OK, "engaged: waiting for a chunk", values)

    async def _engage(self) -> str:
        if self._engaged:
            return "already engaged"
        message = await self._arm.engage()
        with self._lock:
            self._player.wait_s = self.value("wait_s")
            self._player.reset()
            self._engaged, self._dropped, self._refusal = True, "", ""
        self._publish_status()
        return message

    async def _disengage(self) -> str:
        self._drop("")
        return await self._arm.disengage()

    def _on_chunk(self, message: ActionChunk) -> None:
        try:
            self._accept(message)
            self._refusal = ""
        except (ChunkError, ValueError, Refused) as error:
            self._refused += 1
            self._refusal = f"{error} (chunk {message.sequence} of policy {message.policy_id!r})"
            self.get_logger().error(f"chunk refused: {self._refusal}")
        self._publish_status()

    def _accept(self, message: ActionChunk) -> None:
        if not self._engaged:
            raise Refused("the executor is not engaged; call executor/engage first")
        size = int(message.chunk_length) * int(message.action_dim)
        if len(message.actions) != size:
            raise ChunkError(
                f"{len(message.actions)} numbers do not fill {message.chunk_length} rows of {message.action_dim}"
            )
        chunk = Chunk.checked(
            int(message.sequence),
            to_matrix(message.reference),
            np.asarray(message.actions, dtype=np.float64).reshape(int(message.chunk_length), int(message.action_dim)),
            int(message.convention),
            float(message.rate_hz),
            int(message.execute_length),
            int(message.follows),
            float(message.start_step),
            bool(message.real_time),
        )
        if not chunk.follows:  # one that continues another is compared with the path in execution by the player
            self._check_reference(chunk)
        with self._lock:
            delayed_s = self._player.delay_s(time.monotonic())
            self._player.play(chunk, time.monotonic())
            seam = self._player.seam
        self._played += 1
        self._delays += delayed_s > 0.0
        self._waited_s += delayed_s
        if seam is not None:
            self._seams += 1
            self._worst_jump_m = max(self._worst_jump_m, seam.jump_m)

    def _check_reference(self, chunk: Chunk) -> None:
        age_s = time.monotonic() - self._measured_s
        if self._measured_position is None or age_s > POSE_TIMEOUT_S:
            raise Refused("no TCP pose from the arm node, so the chunk's start cannot be checked; is it running?")
        distance_m = float(np.linalg.norm(chunk.T_base_reference[:3, 3] - self._measured_position))
        if distance_m > self.value("reference_tolerance_m"):
            raise ChunkError(
                f"the chunk starts {distance_m:.3f} m from the measured TCP, allowed are "
                f"{self.value('reference_tolerance_m'):.3f} m; was it made from an old observation?"
            )

    def _on_pose(self, message: PoseStamped) -> None:
        at = message.pose.position
        self._measured_position, self._measured_s = np.array([at.x, at.y, at.z]), time.monotonic()

    def _stream(self) -> None:
        """One period of the target thread."""
        if not self._engaged:
            return
        with self._lock:
            before = self._player.state, self._player.executed
            setpoint = self._player.step(time.monotonic())
            changed = before != (self._player.state, self._player.executed)
        if setpoint is not None and self._engaged:
            self._send(setpoint)
        if changed:
            self._publish_status()

    def _send(self, setpoint: Setpoint) -> None:
        target = self._target
        target.header = header(time.time_ns(), "base")
        target.sequence += 1
        target.pose = to_pose(setpoint.T_base_tcp)
        target.gripper_opening = setpoint.opening
        self._targets.publish(target)

    def _watch(self) -> None:
        """Drop the engagement when the arm no longer obeys or the policy went silent; tell the state."""
        if self._engaged:
            if self._player.state is PlayerState.STOPPED:
                self._drop(self._player.reason)
                self._arm.let_go()
            elif lost := self._arm.lost_reason():
                self._drop(lost)
                self._arm.let_go()
        self._publish_status()

    def _drop(self, reason: str) -> None:
        with self._lock:
            self._engaged, self._dropped, self._refusal = False, reason, ""
            if reason:
                self._player.stop(reason)
            else:
                self._player.reset()

    def _publish_status(self) -> None:
        """Publish the state when it changed: at each step of a chunk and at each transition."""
        with self._lock:  # several threads speak; the order of what they say is that of the states
            player = self._player
            reason = player.reason or ("" if self._engaged else "not engaged")
            saying = (int(player.state), player.sequence, player.executed, reason)
            if saying == self._said:
                return
            self._said = saying
            status = ExecutorStatus(
                state=saying[0], sequence=saying[1], step=saying[2], reason=reason, progress=player.progress
            )
            status.header.stamp = to_stamp(time.time_ns())
            self._status.publish(status)


def main() -> None:
    """Entry point of the executable ``executor``."""
    sys.exit(run(ExecutorNode))


if __name__ == "__main__":
    main()
