"""The input side of the policy node: what arrives on its three topics, brought together as in training.

Without subscriptions, so that a test can replay a recording through exactly what the node does with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prophrl_models.data.streams import COLOR, GRIPPER, TCP_POSE, color_sample, gripper_sample, pose_sample
from prophrl_models.data.synchronise import Snapshot, Synchroniser, SyncSpec


class PolicyInputs:
    """Takes images as CDR bytes, poses and gripper states as messages; answers with policy inputs. Thread-safe.

    Attributes:
        unusable: streams whose newest message could not be used, with the reason; the next good one takes it back.
    """

    def __init__(self, sync: SyncSpec, instruction: str = "") -> None:
        self._synchroniser = Synchroniser(sync, instruction)
        self.unusable: dict[str, str] = {}

    @property
    def instruction(self) -> str:
        """What the robot is told to do."""
        return self._synchroniser.instruction

    @instruction.setter
    def instruction(self, text: str) -> None:
        self._synchroniser.instruction = text

    def on_image(self, cdr: bytes) -> None:
        """``camera/color/image_raw``, still serialised: decoding it into a message would copy it twice."""
        self._take(COLOR, lambda: color_sample(cdr))

    def on_pose(self, message: Any) -> None:
        """``tcp_pose_broadcaster/pose``."""
        self._take(TCP_POSE, lambda: pose_sample(message))

    def on_gripper(self, message: Any) -> None:
        """``gripper/state``."""
        self._take(GRIPPER, lambda: gripper_sample(message))

    def snapshot(self, now_ns: int) -> Snapshot:
        """The policy input at ``now_ns``, with ages and, if any, problems."""
        return self._synchroniser.snapshot(now_ns)

    def _take(self, stream: str, read: Callable[[], tuple[int, Any]]) -> None:
        try:
            self._synchroniser.push(stream, *read())
        except ValueError as error:  # a publisher that sends something else than the policy was trained on
            self.unusable[stream] = str(error)
        else:
            self.unusable.pop(stream, None)
