"""The one exception of the launch room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LaunchError(ValueError):
    """A launch file or argument that cannot be used; the message names file, element, value and valid choices."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``; did you mean 'x'?`` for the known name nearest to ``name``, or nothing."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""
