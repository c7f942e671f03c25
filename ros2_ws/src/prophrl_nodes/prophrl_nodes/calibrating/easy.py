"""Our calibrator as easy_handeye2's clients see it: its samples, its algorithms' names, our joint solution behind one.

Samples taken here keep their corners. ``load_samples`` replaces them by bare poses from a file; those are solved from
poses then.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.board import board_pose
from calibration.closed_form import METHODS
from calibration.easy_handeye import HandeyeParameters, HandeyeSample, poses, sample_of_poses
from calibration.hand_eye import DegenerateSamples, solve_poses
from prophrl_nodes.calibrating.look import Look
from prophrl_nodes.calibrating.manual import ManualSession
from prophrl_nodes.calibrating.samples import SampleError, View
from prophrl_nodes.node_base import Refused

Array = NDArray[np.float64]

JOINT = "prophrl/joint"
ALGORITHMS = (JOINT, *(f"prophrl/{name}" for name in METHODS))


class EasySession:
    """Implements ``easy_handeye_services.HandeyeSession``.

    Args:
        work: runs a blocking function in a thread and waits for it, one at a time; what it raises comes as ``Refused``.
        manual: the session by hand; made when it is first asked for.
        look_once: waits for rest and looks at the board; blocks.
        install_at: where an accepted calibration is put; empty for nowhere.
    """

    def __init__(
        self,
        work: Callable[[Callable[[], object]], Awaitable[object]],
        manual: Callable[[], ManualSession],
        look_once: Callable[[], Look],
        install_at: str,
        parameters: HandeyeParameters,
    ) -> None:
        self.algorithm = JOINT
        self._work, self._manual, self._look = work, manual, look_once
        self._install_at = install_at
        self._parameters = parameters
        self._loaded: list[HandeyeSample] | None = None
        self._X: Array | None = None

    @property
    def algorithms(self) -> Sequence[str]:
        """Ours first, then the closed forms."""
        return ALGORITHMS

    @property
    def parameters(self) -> HandeyeParameters:
        """As the node was started."""
        return self._parameters

    def samples(self) -> Sequence[HandeyeSample]:
        """What was taken, or loaded."""
        if self._loaded is not None:
            return self._loaded
        manual = self._manual()
        return [self._sample(view) for view in manual.views]

    async def current_sample(self) -> HandeyeSample:
        """A look at the board now, without keeping it."""
        found: list[HandeyeSample] = []

        def look_now() -> None:
            seen = self._look()
            if seen.view is None:
                raise SampleError(f"no sample: {seen.problem}")
            self._manual()
            found.append(self._sample(seen.view))

        await self._work(look_now)
        return found[0]

    async def take_sample(self) -> None:
        """Look and keep."""
        if self._loaded is not None:
            raise Refused("samples from a file are loaded; restart the calibrator to take samples of its own")
        await self._work(lambda: self._manual().take(self._look()))

    async def remove_sample(self, index: int) -> None:
        """Forget one, counted from 0."""
        if not 0 <= index < len(self.samples()):
            raise Refused(f"there is no sample {index}, there are {len(self.samples())}")
        if self._loaded is not None:
            del self._loaded[index]
            return
        await self._work(lambda: self._manual().remove(index))

    async def load_samples(self, samples: Sequence[HandeyeSample]) -> None:
        """Poses from a file instead of views."""
        self._loaded = list(samples)

    async def compute(self) -> Array:
        """The camera in base or in the effector [4, 4]."""
        await self._work(self._solve)
        assert self._X is not None
        return self._X

    async def save(self) -> str:
        """Our own file, when its gates pass; poses from a file have no corners to judge by and are left to resolve."""
        if self._loaded is not None or self.algorithm != JOINT:
            return ""
        return str(await self._work(lambda: self._manual().save(self._install_at)))

    def _solve(self) -> None:
        mode = self._parameters.mode
        assert mode is not None
        if self._loaded is None and self.algorithm == JOINT:
            manual = self._manual()
            manual.compute()
            assert manual.result is not None
            self._X = manual.result.X
            return
        T_base_tool, T_camera_board = poses(self.samples(), mode)
        try:
            self._X = solve_poses(T_base_tool, T_camera_board, mode, method=self.algorithm.partition("/")[2]).X
        except DegenerateSamples as error:
            raise SampleError(f"not solvable: {error}") from error

    def _sample(self, view: View) -> HandeyeSample:
        setup = self._manual().setup
        T_camera_board, _ = board_pose(view.view, setup.board, setup.camera)
        return sample_of_poses(view.T_base_tool, T_camera_board, setup.mode)
