"""What is written down about an update while it runs: one line for each optimiser step, then means over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

SMALLEST, LARGEST = ("ratio_min",), ("ratio_max",)
"""Metrics of the losses of which the extreme counts; of the others, the mean over passes (weighted by valid slots)."""
DROPPED = ("valid_slots",)


@dataclass
class UpdateResult:
    """What an update did.

    Attributes:
        scalars: means over its optimiser steps; ``surrogate_first`` and ``surrogate_last`` are those of single ones.
        per_k: the same by denoising step [K]: ``gradient`` (norm of d loss / d velocity), exact ``kl_reference`` and
            ``kl_old``, ``std``, ``weight``.
    """

    scalars: dict[str, float] = field(default_factory=dict)
    per_k: dict[str, list[float]] = field(default_factory=dict)


class UpdateLog:
    """Collects passes (micro-batches) into optimiser steps, and those into a result."""

    def __init__(self) -> None:
        self._steps: list[UpdateResult] = []
        self._open = UpdateResult()
        self._squares_K: list[float] = []

    def add_pass(
        self,
        share: float,
        parts: Mapping[str, Tensor],
        metrics: Mapping[str, Tensor],
        parts_K: Mapping[str, Tensor],
        gradient_KX: Tensor,
    ) -> None:
        """One pass.

        Args:
            share: of the mini-batch's valid slots.
            parts, parts_K: summands of the mini-batch's values: scalars, and by denoising step [K].
            metrics: values of the pass alone (scalars; vectors are left out).
            gradient_KX: d loss / d velocity of its rows [K, ...].
        """
        s, per_k = self._open.scalars, self._open.per_k
        for name, value in parts.items():
            s[name] = s.get(name, 0.0) + value.item()
        for name, value in metrics.items():
            if value.ndim or name in DROPPED:
                continue
            if name in SMALLEST or name in LARGEST:
                s[name] = (min if name in SMALLEST else max)(s.get(name, value.item()), value.item())
            else:
                s[name] = s.get(name, 0.0) + share * value.item()
        for name, values in parts_K.items():
            per_k[name] = _added(per_k.get(name), values.tolist())
        self._squares_K = _added(self._squares_K, gradient_KX.float().square().flatten(1).sum(1).tolist())

    def end_step(self, gradient_norm: float, constants_K: Mapping[str, Tensor]) -> None:
        """The optimiser has stepped; ``constants_K`` [K] are what did not vary over the passes."""
        self._open.scalars["gradient_norm"] = gradient_norm
        self._open.per_k["gradient"] = [square**0.5 for square in self._squares_K]
        self._open.per_k.update({name: values.tolist() for name, values in constants_K.items()})
        self._steps.append(self._open)
        self.discard()

    def discard(self) -> None:
        """Forget the passes of a step that was not taken."""
        self._open, self._squares_K = UpdateResult(), []

    def result(self) -> UpdateResult:
        """Means over the optimiser steps taken; extremes of extremes."""
        steps = self._steps
        if not steps:
            return UpdateResult({"updates": 0.0})
        scalars = {}
        for name in steps[0].scalars:
            values = [step.scalars[name] for step in steps]
            extreme = min if name in SMALLEST else max if name in LARGEST else None
            scalars[name] = extreme(values) if extreme else sum(values) / len(values)
        scalars["updates"] = float(len(steps))
        scalars["surrogate_first"] = steps[0].scalars["surrogate"]
        scalars["surrogate_last"] = steps[-1].scalars["surrogate"]
        scalars["kl_reference_last"] = steps[-1].scalars["kl_reference"]
        scalars["ratio_off_first"] = max(
            abs(steps[0].scalars["ratio_max"] - 1.0), abs(steps[0].scalars["ratio_min"] - 1.0)
        )
        per_k = {
            name: [sum(column) / len(steps) for column in zip(*(step.per_k[name] for step in steps), strict=True)]
            for name in steps[0].per_k
        }
        return UpdateResult(scalars, per_k)


def _added(total: list[float] | None, values: list[float]) -> list[float]:
    return [a + b for a, b in zip(total, values, strict=True)] if total else list(values)
