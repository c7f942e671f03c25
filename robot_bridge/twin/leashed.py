"""Runs one process of the lab so that it never outlives the lab.

    python -m robot_bridge.twin.leashed robot_bridge.twin.controller --cell FILE ...

Standard input is a pipe whose other end the lab holds. The kernel closes it when the lab dies in whatever way, and
then this process is asked to stop, and made to if it does not. (The parent-death signal of Linux would do, but it
fires when the *thread* that started the process ends.)
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

GRACE_S = 3.0


def _watch() -> None:
    # Blocks without the interpreter lock until the lab is gone; nothing is ever written to this pipe.
    while os.read(0, 1):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os._exit(1)


def main() -> None:
    """Run the module named in the arguments, with the rest of the arguments as its own."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m robot_bridge.twin.leashed MODULE [ARGUMENT ...]")
    threading.Thread(target=_watch, daemon=True).start()
    module = sys.argv[1]
    sys.argv = sys.argv[1:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
