"""A judge as an argument: KIND:PLACE, and what is to be other than usual after commas.

classifier:FOLDER    trajectory:FOLDER    local:FOLDER,style=libero,votes=3    server:http://127.0.0.1:8000/v1,MODEL,deadline_s=300

The command line's help shows the forms, so this module imports nothing heavy until an argument is read.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prophrl_models.reward.factory import JudgeSettings

FORMS = (
    "classifier:FOLDER, trajectory:FOLDER, local:FOLDER or server:ADDRESS,MODEL, then options such as "
    ",style=libero,votes=5"
)
_VOTING: dict[str, Callable[[str], Any]] = {"style": str, "votes": int, "needed": int}
OPTIONS: dict[str, dict[str, Callable[[str], Any]]] = {
    "classifier": {"device": str},
    "trajectory": {"device": str},
    "local": {**_VOTING, "device": str},
    "server": {**_VOTING, "timeout_s": float, "deadline_s": float},
}
"""Fields of ``JudgeSettings`` that make sense for each kind of judge."""


def parse_judge(text: str) -> JudgeSettings:
    """Settings from an argument. Votes without ``needed`` are decided by the majority.

    Raises:
        JudgeError: another form, an option that the kind does not have, or a value that cannot be.
    """
    from prophrl_models.reward.factory import JudgeSettings
    from prophrl_models.reward.judge import JudgeError

    kind, _, place = text.partition(":")
    if kind not in OPTIONS or not place:
        raise JudgeError(f"a judge is {FORMS}; got {text!r}")
    parts, given = place.split(","), {}
    while len(parts) > 1 and (option := re.fullmatch(r"\s*(\w+)=(.*)", parts[-1])):
        name, value = option.groups()
        if name in given:
            raise JudgeError(f"a judge's option {name} is given twice in {text!r}")
        given[name] = _value(kind, name, value.strip(), text)
        parts.pop()
    if "votes" in given:
        given.setdefault("needed", given["votes"] // 2 + 1)
    place, model = ",".join(parts), ""
    if kind == "server":
        place, _, model = place.rpartition(",")
    if not place or (kind == "server" and not model):
        needs = "a model: server:ADDRESS,MODEL" if kind == "server" else f"its folder: {kind}:FOLDER"
        raise JudgeError(f"a judge of kind {kind} needs {needs}; got {text!r}")
    try:
        return JudgeSettings(kind, place, model, **given)
    except JudgeError as error:
        raise JudgeError(f"{error}; in the judge {text!r}") from error


def _value(kind: str, name: str, value: str, text: str) -> Any:
    from prophrl_models.reward.judge import JudgeError

    known = OPTIONS[kind]
    if name not in known:
        raise JudgeError(f"a judge of kind {kind} has no option {name!r}; choose of {', '.join(known)}; got {text!r}")
    try:
        return known[name](value)
    except ValueError as error:
        wanted = "a whole number" if known[name] is int else "a number"
        raise JudgeError(f"a judge's {name} is {wanted}, got {value!r} in {text!r}") from error
