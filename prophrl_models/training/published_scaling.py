"""The units that published weights act in, for fine-tuning that should not have to learn new ones.

A policy that is fine-tuned from few demonstrations does better in the action units of its first weights than in those
of the new data: a step of one stays a step of one (openpi advises the same). It needs the statistics file that came
with the weights, and a robot whose actions mean the same: metres and radians per step, in the same frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from prophrl_models.data.foreign_statistics import (
    ForeignNormalisation,
    ForeignStatisticsError,
    GripperPolarity,
    read_lerobot,
    read_openpi,
    read_openvla,
)
from prophrl_models.policies.interface import Scaling
from prophrl_models.training.checkpoint import sha256
from prophrl_models.training.settings import TrainingError

ACTION_DIM = 7
OPENPI_MODES = ("quantiles", "mean_std")
USUAL_MODE = {"openpi": "quantiles", "lerobot": "mean_std", "openvla": "bounds_q99"}


@dataclass(frozen=True)
class PublishedStatistics:
    """Where the statistics of published weights are, and what their file does not say.

    Attributes:
        path: the file, or the folder it lies in.
        layout: whose file it is; "openvla" also for OpenVLA-OFT and VLA-Adapter.
        gripper: which end of the gripper's numbers is open, a name of ``GripperPolarity`` in small letters.
        mode: how the project normalises; empty: as in ``USUAL_MODE``.
        dataset: of a file with several, which ("unnorm_key").
    """

    path: str = ""
    layout: Literal["openpi", "lerobot", "openvla"] = "openvla"
    gripper: str = ""
    mode: str = ""
    dataset: str = ""

    def identity(self) -> dict[str, str]:
        """The file's hash: part of what a resumed run must agree on.

        Raises:
            TrainingError: there is no such file.
        """
        return {"statistics": self._read().source, "statistics_sha256": sha256(self._file())}

    def action_scaling(self) -> Scaling:
        """Network values to actions [7]: metres, radians, opening (0 closed .. 1 open).

        Raises:
            TrainingError: the file cannot be used, is of another arm, or its settings are incomplete.
        """
        action = self._read().action
        if len(action) != ACTION_DIM:
            raise TrainingError(
                f"{self.path} has actions of {len(action)} numbers, needed are {ACTION_DIM} (pose change and gripper); "
                "take the statistics of one arm, or scaling: quantile"
            )
        offset, scale = action.opening_scaling()
        still = [str(channel) for channel in np.flatnonzero(np.abs(scale) < 1e-6)]
        if still:
            raise TrainingError(
                f"in {self.path} the action channels {', '.join(still)} never vary, so they have no unit; take other "
                "statistics, or scaling: quantile"
            )
        return Scaling(offset, scale)

    def _read(self) -> ForeignNormalisation:
        if not self.path:
            raise TrainingError("scaling: published needs statistics: {path, layout, gripper} of the published weights")
        names = {polarity.name.lower(): polarity for polarity in GripperPolarity}
        if self.gripper not in names:
            raise TrainingError(
                f"statistics.gripper must say which end is open, one of {', '.join(names)}, got {self.gripper!r}; the "
                "file does not know"
            )
        gripper, mode = names[self.gripper], self.mode or USUAL_MODE[self.layout]
        try:
            if self.layout == "lerobot":
                return read_lerobot(self.path, gripper, action_mode=mode, state_mode="identity")
            if self.layout == "openvla":
                return read_openvla(self.path, gripper, dataset=self.dataset or None, mode=mode)
            if mode not in OPENPI_MODES:
                raise TrainingError(f"statistics.mode of openpi is one of {', '.join(OPENPI_MODES)}, got {mode!r}")
            return read_openpi(self.path, gripper, quantiles=mode == "quantiles", action_dim=ACTION_DIM)
        except ForeignStatisticsError as error:
            raise TrainingError(str(error)) from error

    def _file(self) -> Path:
        path = Path(self.path).expanduser()
        names = {"openpi": ("norm_stats.json",), "lerobot": ("meta/stats.json",)}.get(
            self.layout, ("dataset_statistics.json", "config.json")
        )
        return path if path.is_file() else next(path / name for name in names if (path / name).is_file())
