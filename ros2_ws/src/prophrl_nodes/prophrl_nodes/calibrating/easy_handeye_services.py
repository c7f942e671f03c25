"""easy_handeye2's services, answered by our calibrator, so that its clients and its RViz/rqt panel work unchanged.

Names are absolute and types are those of ``easy_handeye2_msgs``; where that package is not installed nothing is
offered. Its messages have no room for reasons: what we refuse is logged, and the answer is what its own server would
give (the unchanged list, ``success`` or ``valid`` false). A result is saved twice: by us, and as a ``.calib`` file
where easy_handeye2's own publisher finds it.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from geometry_msgs.msg import Transform
from std_msgs.msg import Empty

from calibration.easy_handeye import (
    CalibFile,
    EasyHandeyeError,
    HandeyeParameters,
    HandeyeSample,
    HandeyeTransform,
    SamplesFile,
    calib_path,
    read_samples,
    samples_path,
    write_calib,
    write_samples,
)
from calibration.poses import Array
from prophrl_nodes.node_base import ProphNode, Refused

NAMESPACE = "/easy_handeye2/calibration/"
PACKAGE = "easy_handeye2_msgs"


class HandeyeSession(Protocol):
    """What the services need of a calibrator. Every method may raise ``Refused``; indices count from 0."""

    algorithm: str
    """The algorithm ``compute`` uses; one of ``algorithms``. Spelled ``backend/name`` as in easy_handeye2."""

    @property
    def algorithms(self) -> Sequence[str]:
        """All there are."""

    @property
    def parameters(self) -> HandeyeParameters:
        """Name, type and frames of this calibration, in easy_handeye2's words."""

    def samples(self) -> Sequence[HandeyeSample]:
        """The samples taken so far; make them with ``calibration.easy_handeye.sample_of_poses``."""

    async def current_sample(self) -> HandeyeSample:
        """The poses at this moment."""

    async def take_sample(self) -> None:
        """Take one, when the robot stands still and the board is seen."""

    async def remove_sample(self, index: int) -> None:
        """Forget one."""

    async def load_samples(self, samples: Sequence[HandeyeSample]) -> None:
        """Replace all samples by poses from a file."""

    async def compute(self) -> Array:
        """Solve: camera in base (eye_on_base) or in effector (eye_in_hand) [4, 4]."""

    async def save(self) -> str:
        """Write the last result as the cell's calibration; returns the file's path."""


def available() -> bool:
    """Whether ``easy_handeye2_msgs`` can be imported."""
    return importlib.util.find_spec(PACKAGE) is not None


class EasyHandeyeServices:
    """Offers the services on a node, from construction to ``close``.

    Raises:
        ModuleNotFoundError: the package is not installed; ask ``available`` first.
    """

    def __init__(self, node: ProphNode, session: HandeyeSession) -> None:
        self._node, self._session = node, session
        self._types = importlib.import_module(f"{PACKAGE}.srv")
        self._messages = importlib.import_module(f"{PACKAGE}.msg")
        self._result: CalibFile | None = None
        answers: dict[str, tuple[str, Callable[[Any, Any], Awaitable[Any]]]] = {
            "list_algorithms": ("ListAlgorithms", self._list_algorithms),
            "set_algorithm": ("SetAlgorithm", self._set_algorithm),
            "get_current_transforms": ("TakeSample", self._current),
            "get_sample_list": ("TakeSample", self._list),
            "take_sample": ("TakeSample", self._take),
            "remove_sample": ("RemoveSample", self._remove),
            "save_samples": ("SaveSamples", self._save_samples),
            "load_samples": ("LoadSamples", self._load_samples),
            "compute_calibration": ("ComputeCalibration", self._compute),
            "save_calibration": ("SaveCalibration", self._save),
        }
        self._services = [
            node.create_service(getattr(self._types, kind), NAMESPACE + name, answer, callback_group=node.callbacks)
            for name, (kind, answer) in answers.items()
        ]
        topics = {"take_sample": self._on_take, "remove_sample": self._on_remove_last}  # for buttons on a robot
        self._subscriptions = [
            node.create_subscription(Empty, NAMESPACE + name, callback, 10, callback_group=node.callbacks)
            for name, callback in topics.items()
        ]

    def close(self) -> None:
        """Take the services back."""
        for service in self._services:
            self._node.destroy_service(service)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._services, self._subscriptions = [], []

    # ---- samples

    async def _current(self, _request: Any, response: Any) -> Any:
        sample: list[HandeyeSample] = []
        if await self._obeyed("get_current_transforms", self._current_into(sample)):
            response.samples = self._sample_list(sample)
        return response

    async def _current_into(self, sample: list[HandeyeSample]) -> None:
        sample.append(await self._session.current_sample())

    async def _list(self, _request: Any, response: Any) -> Any:
        response.samples = self._sample_list(self._session.samples())
        return response

    async def _take(self, request: Any, response: Any) -> Any:
        await self._obeyed("take_sample", self._session.take_sample())
        return await self._list(request, response)

    async def _remove(self, request: Any, response: Any) -> Any:
        await self._obeyed("remove_sample", self._session.remove_sample(int(request.sample_index)))
        return await self._list(request, response)

    async def _on_take(self, _message: Any) -> None:
        await self._obeyed("take_sample", self._session.take_sample())

    async def _on_remove_last(self, _message: Any) -> None:
        if count := len(self._session.samples()):
            await self._obeyed("remove_sample", self._session.remove_sample(count - 1))

    async def _save_samples(self, _request: Any, response: Any) -> Any:
        async def save() -> None:
            parameters = self._session.parameters
            write_samples(samples_path(parameters.name), SamplesFile(parameters, tuple(self._session.samples())))

        response.success = await self._obeyed("save_samples", save())
        return response

    async def _load_samples(self, request: Any, response: Any) -> Any:
        async def load() -> None:
            await self._session.load_samples(read_samples(samples_path(self._session.parameters.name)).samples)

        response.success = await self._obeyed("load_samples", load())
        return await self._list(request, response)

    # ---- result

    async def _list_algorithms(self, _request: Any, response: Any) -> Any:
        response.algorithms = list(self._session.algorithms)
        response.current_algorithm = self._session.algorithm
        return response

    async def _set_algorithm(self, request: Any, response: Any) -> Any:
        response.success = request.new_algorithm in self._session.algorithms
        if response.success:
            self._session.algorithm = request.new_algorithm
        else:
            known = ", ".join(self._session.algorithms)
            self._node.get_logger().warning(f"unknown algorithm {request.new_algorithm!r}; choose one of {known}")
        return response

    async def _compute(self, _request: Any, response: Any) -> Any:
        async def compute() -> None:
            self._result = None
            X = await self._session.compute()
            self._result = CalibFile(self._session.parameters, HandeyeTransform.from_matrix(X))

        response.valid = await self._obeyed("compute_calibration", compute())
        if self._result is not None:
            response.calibration = self._messages.HandeyeCalibration(
                parameters=self._parameters(self._result.parameters), transform=_message(self._result.transform)
            )
        return response

    async def _save(self, _request: Any, response: Any) -> Any:
        async def save() -> None:
            if self._result is None:
                raise Refused("there is no result to save; call compute_calibration first")
            await self._session.save()
            path = calib_path(self._result.parameters.name)
            write_calib(path, self._result)
            response.filepath.data = str(path)

        response.success = await self._obeyed("save_calibration", save())
        return response

    # ---- helpers

    async def _obeyed(self, name: str, work: Awaitable[None]) -> bool:
        try:
            await work
        except (Refused, EasyHandeyeError, OSError) as refusal:
            self._node.get_logger().warning(f"{NAMESPACE}{name} refused: {refusal}")
            return False
        return True

    def _sample_list(self, samples: Sequence[HandeyeSample]) -> Any:
        entries = [self._messages.Sample(robot=_message(s.robot), tracking=_message(s.tracking)) for s in samples]
        return self._messages.SampleList(parameters=self._parameters(self._session.parameters), samples=entries)

    def _parameters(self, parameters: HandeyeParameters) -> Any:
        return self._messages.HandeyeCalibrationParameters(**vars(parameters))


def _message(transform: HandeyeTransform) -> Transform:
    message = Transform()
    message.translation.x, message.translation.y, message.translation.z = transform.translation
    turn = message.rotation
    turn.x, turn.y, turn.z, turn.w = transform.rotation_xyzw
    return message
