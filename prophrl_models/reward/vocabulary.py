"""Which task a classifier is asked about: instructions and task names, upper and lower case alike."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from prophrl_models.reward.judge import JudgeError
from prophrl_models.reward.prompts import prompts


def task_numbers(tasks: Sequence[str], known: Sequence[str]) -> Tensor:
    """Positions [B] of tasks in the vocabulary ``known``.

    Raises:
        JudgeError: a task that the classifier was not trained on.
    """
    number_of = {task.strip().lower(): number for number, task in enumerate(known)}
    for task in tasks:
        if task.strip().lower() not in number_of:
            raise JudgeError(
                f"the classifier was not trained on the task {task!r}, only on {', '.join(known)}; train one on "
                "attempts at it with 'prophrl reward train'"
            )
    return torch.tensor([number_of[task.strip().lower()] for task in tasks], dtype=torch.long)


def known_name(task: str, known: Sequence[str]) -> str:
    """The name under which a classifier knows a task: prompt files say which names mean the same."""
    said = task.strip().lower()
    for prompt in prompts().values():
        names = [name.lower() for name in prompt.tasks]
        if said in names:
            return next((name for name in known if name.lower() in names), task)
    return task
