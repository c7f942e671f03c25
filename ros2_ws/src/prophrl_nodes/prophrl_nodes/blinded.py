"""Several policies for one plan: which letter is which, from the plan's sealed key, told to the policy node alone.

Whoever places the objects and judges works with the trial node, which knows letters only.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from prophrl_models.trials.plan import PlanError, PlanKey, TrialPlan

KEY_FILE = "key.json"


def named_policies(text: str) -> dict[str, str]:
    """Checkpoint folder or server by name, of ``NAME=CHECKPOINT NAME=CHECKPOINT``; quotes as in a shell.

    Raises:
        ValueError: an entry of another form, or a name given twice.
    """
    form = 'give policies as "NAME=CHECKPOINT NAME=CHECKPOINT", with the names of the plan'
    found: dict[str, str] = {}
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{text!r}: {error}; {form}") from error
    for word in words:
        name, given, where = word.partition("=")
        if not (name and given and where):
            raise ValueError(f"{word!r} names no policy; {form}")
        if name in found:
            raise ValueError(f"policy {name!r} is given twice, {found[name]} and {where}; {form}")
        found[name] = where
    return found


def policies_by_letter(policies: str, plan_path: str | Path) -> dict[str, str]:
    """Checkpoint folder or server by letter: what each letter of a plan stands for.

    Args:
        policies: see ``named_policies``; names that the plan does not have are refused, too.
        plan_path: the plan; its key lies beside it.

    Raises:
        ValueError: see ``named_policies``, or the plan compares others than these.
        PlanError: plan or key missing, changed, or not of each other.
    """
    given = named_policies(policies)
    if not str(plan_path):
        raise PlanError("policies are compared in a plan: give its file, written by prophrl trials plan")
    plan = TrialPlan.load(plan_path)
    key = PlanKey.load(Path(plan_path).parent / KEY_FILE, plan)
    planned = sorted(key.policies.values())
    if sorted(given) != planned:
        raise ValueError(
            f"the plan compares {', '.join(planned)}, given are {', '.join(sorted(given)) or 'none'}; name a "
            "checkpoint for each of the plan's policies and no other"
        )
    return {letter: given[name] for letter, name in sorted(key.policies.items())}
