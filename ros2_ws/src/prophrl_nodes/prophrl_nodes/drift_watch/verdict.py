"""What the drift check says of one episode, for people, for scripts and for the bag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from calibration.camera_shift import DriftReport

FORMAT = "prophrl-drift/1"
DRIFT_FILE = "drift.json"
"""Its name beside the episode's bag."""

Verdict = Literal["still", "moved", "unknown", "reference"]
"""``reference``: nothing to compare with yet; this episode is what later ones are compared with."""


@dataclass(frozen=True)
class DriftVerdict:
    """Verdict, one sentence with what to do, and the figures behind it.

    ``pixels``: rms displacement of the robot's visible points in the image; ``millimetres``: rms error, across the line
    of sight, of what is seen of the table in the workspace; ``sigma_*`` their uncertainty; None where nothing was
    measured. ``voices``: what robot, scenery and marker say, each at its own distance. ``provisional``: the episode
    was still being recorded.
    """

    verdict: Verdict
    reason: str
    episode_id: str = ""
    calibration_id: str = ""
    reference_episode: str = ""
    frames: int = 0
    provisional: bool = False
    pixels: float | None = None
    millimetres: float | None = None
    sigma_px: float | None = None
    sigma_mm: float | None = None
    offset_px: tuple[float, float] | None = None
    camera_shift_6: tuple[float, ...] | None = None
    voices: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def moved(self) -> bool:
        """The camera no longer stands where it was calibrated."""
        return self.verdict == "moved"

    def as_dict(self) -> dict[str, Any]:
        """For ``drift.json`` and ``--json``."""
        return {
            "format": FORMAT,
            "verdict": self.verdict,
            "reason": self.reason,
            "episode_id": self.episode_id,
            "calibration_id": self.calibration_id,
            "reference_episode": self.reference_episode,
            "frames": self.frames,
            "provisional": self.provisional,
            "pixels": _rounded(self.pixels),
            "millimetres": _rounded(self.millimetres),
            "sigma_px": _rounded(self.sigma_px),
            "sigma_mm": _rounded(self.sigma_mm),
            "offset_px": None if self.offset_px is None else [_rounded(v) for v in self.offset_px],
            "camera_shift_6": None if self.camera_shift_6 is None else [round(v, 6) for v in self.camera_shift_6],
            "voices": {name: dict(voice) for name, voice in self.voices.items()},
        }

    def figures(self) -> dict[str, str]:
        """Flat text values for a diagnostic message; what was not measured is left out."""
        flat = {name: value for name, value in self.as_dict().items() if name not in ("reason", "voices")}
        for voice, figures in self.voices.items():
            flat |= {f"{voice}.{name}": figures[name] for name in ("verdict", "pixels", "sigma_px")}
        return {name: _text(value) for name, value in flat.items() if value is not None}


def voice_of(report: DriftReport) -> dict[str, Any]:
    """The figures of one of the checks."""
    return {
        "verdict": report.verdict,
        "pixels": _rounded(report.pixels),
        "millimetres": _rounded(report.millimetres),
        "sigma_px": _rounded(report.sigma_px),
        "used": report.used,
        "reason": report.reason,
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(float(value), 4)


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)
