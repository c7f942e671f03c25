"""Progress bars that also read well in a log file: on a terminal they move, elsewhere they are a line now and then."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

LOG_INTERVAL_S = 15.0


def progress_bar(total: int, unit: str, *, initial: int = 0) -> Any:
    """A tqdm bar on standard error; without a terminal it prints at most a line each 15 s."""
    terminal = sys.stderr.isatty()
    return tqdm(
        total=total,
        initial=initial,
        unit=unit,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else LOG_INTERVAL_S,
        maxinterval=1.0 if terminal else LOG_INTERVAL_S,
        bar_format=None if terminal else "      {n_fmt}/{total_fmt} {unit}s, {elapsed} elapsed{postfix}\n",
    )
