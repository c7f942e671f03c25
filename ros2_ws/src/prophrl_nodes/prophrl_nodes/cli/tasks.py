"""Task names on the command line."""

from __future__ import annotations

from collections.abc import Iterable


def check_tasks(names: Iterable[str]) -> None:
    """Refuse unknown task names before anything is done with them.

    Raises:
        UnknownTask: names the task and those there are.
    """
    from prophrl_nodes.launch_files.errors import did_you_mean
    from robot_bridge.twin.tasks import TASK_IDS

    for name in names:
        if name not in TASK_IDS:
            raise UnknownTask(f"unknown task {name!r}; tasks are {', '.join(TASK_IDS)}{did_you_mean(name, TASK_IDS)}")


class UnknownTask(ValueError):
    """A task of that name does not exist; the message lists those that do."""
