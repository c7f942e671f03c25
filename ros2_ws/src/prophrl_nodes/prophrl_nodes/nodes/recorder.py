"""Executable of the recorder node."""

from __future__ import annotations

import sys

from prophrl_nodes.recorder.node import RecorderNode
from prophrl_nodes.ros import run


def main() -> int:
    """Run the recorder until it is stopped."""
    return run(RecorderNode)


if __name__ == "__main__":
    sys.exit(main())
