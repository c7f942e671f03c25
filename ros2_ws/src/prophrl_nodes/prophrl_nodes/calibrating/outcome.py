"""What a finished calibration leaves behind: result.json, calibration.yaml, and the file the cell's nodes follow."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from calibration.hand_eye import Gate, HandEyeResult
from calibration.record import Calibration, HeldOutError
from calibration.storage import CalibrationFileError, load_calibration, save
from prophrl_nodes.calibrating.run import Outcome
from prophrl_nodes.calibrating.samples import Session, write_result

CREATED_BY = "prophrl calibrate hand-eye"


@dataclass(frozen=True)
class Saved:
    """The files written; id and file are empty when the calibration was not accepted."""

    calibration_id: str = ""
    file: str = ""
    installed: str = ""


def gate_lines(gates: tuple[Gate, ...]) -> list[str]:
    """One line for each gate: name, figure against limit, and what to do when it failed."""
    return [
        f"{gate.name}: {'passed' if gate.passed else 'FAILED'} {gate.value:.3g} (limit {gate.limit:.3g})"
        + ("" if gate.passed else f": {gate.reason}")
        for gate in gates
    ]


def to_calibration(result: HandEyeResult, session: Session, samples: int) -> Calibration:
    """The record of a solution, for ``calibration.storage.save``."""
    held = result.held_out
    figures = (held.pixels_rms, held.millimetres_rms, held.degrees_rms)
    return Calibration.from_solution(
        result.camera or session.setup.camera,
        result.mode,
        result.X,
        result.Y,
        camera_serial=session.camera_serial,
        covariance_66=result.covariance_X_66,
        held_out=HeldOutError(*figures) if all(map(math.isfinite, figures)) else None,
        sigma_mm=result.sigma_mm,
        sigma_deg=result.sigma_deg,
        board=session.setup.board.to_dict(),
        samples=samples,
        robot_serial=session.robot,
        created_by=CREATED_BY,
    )


def save_outcome(folder: str | Path, session: Session, outcome: Outcome, install_at: str | Path = "") -> Saved:
    """Write ``result.json`` always, ``calibration.yaml`` only when every gate passed; then also ``install_at``.

    The installed file keeps the image size of the one it replaces: a cell may be calibrated at a larger image than it
    records at.

    Raises:
        OSError: a file cannot be written.
    """
    folder = Path(folder)
    saved = Saved()
    if outcome.accepted and outcome.result is not None:
        calibration = to_calibration(outcome.result, session, outcome.poses)
        path = folder / "calibration.yaml"
        saved = Saved(save(path, calibration), str(path))
        if install_at:
            save(install_at, _sized_as(install_at, calibration))
            saved = replace(saved, installed=str(install_at))
    write_result(folder, _as_json(outcome, saved))
    return saved


def _sized_as(path: str | Path, calibration: Calibration) -> Calibration:
    try:
        before = load_calibration(path).camera
    except CalibrationFileError:
        return calibration
    return replace(calibration, camera=calibration.camera.resized(before.width, before.height))


def _as_json(outcome: Outcome, saved: Saved) -> dict[str, Any]:
    result = outcome.result
    content: dict[str, Any] = {
        "accepted": outcome.accepted,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        "poses": outcome.poses,
        "calibration_id": saved.calibration_id,
        "file": saved.file,
        "installed": saved.installed,
    }
    if result is not None:
        content |= {
            "mode": result.mode,
            "X": result.X.tolist(),
            "Y": result.Y.tolist(),
            "covariance_X": result.covariance_X_66.tolist(),
            "sigma_mm": result.sigma_mm,
            "sigma_deg": result.sigma_deg,
            "held_out": {
                "pixels": _finite(result.held_out.pixels_rms),
                "millimetres": _finite(result.held_out.millimetres_rms),
                "degrees": _finite(result.held_out.degrees_rms),
            },
            "training_rms_px": _finite(result.training_rms_px),
            "per_sample_rms_px": [_finite(value) for value in np.ravel(result.per_sample_rms_px)],
            "gates": [
                {
                    "name": gate.name,
                    "passed": bool(gate.passed),
                    "value": _finite(gate.value),
                    "limit": _finite(gate.limit),
                    "reason": gate.reason,
                }
                for gate in result.gates
            ],
        }
    return content


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
