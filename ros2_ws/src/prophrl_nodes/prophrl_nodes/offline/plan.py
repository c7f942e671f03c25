"""What an offline reinforcement is asked to do: a frozen plan beside its results, so that it can be continued."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from prophrl_models.data.files import write_json
from prophrl_models.reward.argument import parse_judge
from prophrl_models.reward.factory import KINDS
from prophrl_models.reward.judge import JudgeError

PLAN_FILE = "plan.json"
MAY_CHANGE = ("threads", "gates")
"""Between two runs in one folder."""
TWIN = "twin"
"""An audit by trials on the digital twin."""
TRAJECTORY, VIDEO = "trajectory", "video"
"""Judges that a flow can train; the words of ``prophrl reward train --kind``."""


class PlanError(ValueError):
    """A plan that cannot be run, or differs from the one its folder belongs to; the message says where."""


@dataclass(frozen=True)
class OfflinePlan:
    """The inputs of one flow; paths are absolute.

    Attributes:
        bags: bags or folders of bags: successes, failures and play.
        policy: checkpoint to start from; empty with ``after``.
        world: Prophet checkpoint to adapt; empty: one is trained from nothing, which takes hours on a CPU.
        task: which task to reinforce; empty: the only one the bags hold.
        judge: as ``prophrl rl`` takes it, ``classifier:FOLDER``, ``local:FOLDER`` or ``server:ADDRESS,MODEL``, with
            options after it; a bare folder is taken as a classifier's. Empty or "trajectory": one that looks at where
            the hand goes in the start picture is trained on the bags; ``VIDEO``: one that looks at videos.
        planned: bags, or folders of bags, of attempts that were planned in a world model and executed unseen: a judge
            that is trained then learns from them alone (docs/reward.md).
        after: folder of a finished flow that this one continues with new bags (see ``rounds``); empty: a first round.
        audit: what imagined success is held against while the policy is trained: "twin", trials on the digital twin
            (bags of the twin only); a second judge, given as ``judge`` is; empty or "none": nothing.
        preset: reinforcement settings, by name or file.
        world_preset: settings of the adaptation, by name or file.
        steps: reinforcement steps; 0: as the preset says.
        world_steps: steps of the adaptation; 0: as its preset says.
        gates: stop where the check before reinforcement fails; False: go on in spite of it.
        seed: of all of it.
        threads: CPU threads; 0: torch decides.
    """

    bags: tuple[str, ...]
    policy: str = ""
    world: str = ""
    task: str = ""
    judge: str = ""
    audit: str = ""
    preset: str = "small"
    world_preset: str = "small_adapt"
    steps: int = 0
    world_steps: int = 0
    gates: bool = True
    seed: int = 0
    threads: int = 0
    after: str = ""
    planned: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "judge", judge_argument(self.judge))
        object.__setattr__(self, "audit", audit_argument(self.audit))
        if not self.bags:
            raise PlanError("no bags given; name bags, or folders of bags, recorded with prophrl launch collect")
        if self.after and (self.policy or self.world):
            raise PlanError(
                f"policy and world come from {self.after}, the round before; leave {self.policy or self.world} out"
            )
        if not self.after and not self.policy:
            raise PlanError("no policy checkpoint given; prophrl train policy makes one")
        if self.planned and self.judge:
            raise PlanError(
                f"planned attempts teach a judge of trajectories that is trained here, and judge {self.judge} is asked "
                "for; leave one of the two out"
            )
        named = [path for path in (*self.bags, *self.planned, self.policy, self.after) if path]
        missing = [path for path in named if not Path(path).exists()]
        if self.world and not Path(self.world).is_dir():
            missing.append(self.world)
        judges = [self.judge] if self.audit == TWIN else [self.judge, self.audit]
        missing += [f"{judge} (no such folder)" for judge in judges for f in judge_folder(judge) if not f.is_dir()]
        if missing:
            raise PlanError(f"not found: {', '.join(missing)}")
        if self.audit == TWIN and self.task:
            check_twin_task(self.task)
        for name in ("steps", "world_steps", "seed", "threads"):
            if getattr(self, name) < 0:
                raise PlanError(f"{name} cannot be negative, got {getattr(self, name)}")

    def settle(self, folder: Path) -> None:
        """Write the plan into its folder, or check that the folder is of the same plan.

        Raises:
            PlanError: the folder holds a run of another plan.
        """
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / PLAN_FILE
        now: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        if file.is_file():
            # Plans from before there were rounds, audits or planned attempts.
            then = {"after": "", "audit": "", "planned": [], **json.loads(file.read_text(encoding="utf-8"))}
            then["judge"] = judge_argument(then["judge"])  # once a bare folder or address
            names = [f.name for f in fields(self) if f.name not in MAY_CHANGE]
            changed = [name for name in names if then.get(name) != now[name]]
            if changed:
                what = "; ".join(f"{name} was {then.get(name)!r}, now {now[name]!r}" for name in changed)
                raise PlanError(f"{folder} holds a run of another plan ({what}); take another output folder")
        write_json(file, now)


def settings_argument(text: str) -> str:
    """Settings by name as they are, a file's path absolute: a plan is continued from anywhere."""
    return str(Path(text).expanduser().resolve()) if is_settings_file(text) else text


def judge_argument(text: str) -> str:
    """A judge in the words of ``prophrl rl``, its folder absolute; a bare folder is a classifier's.

    One that is to be trained: empty for trajectories, or ``VIDEO``.

    Raises:
        PlanError: neither of the form KIND:PLACE nor a folder.
    """
    if text in ("", TRAJECTORY):
        return ""
    if text == VIDEO:
        return VIDEO
    kind = text.partition(":")[0]
    if kind not in KINDS and "://" in text:
        text = f"server:{text}"  # as plans had it once
    elif kind not in KINDS and (":" not in text or Path(text).is_dir()):
        text = f"classifier:{text}"
    try:
        settings = parse_judge(text)
    except JudgeError as error:
        raise PlanError(str(error)) from error
    if settings.kind == "server":
        return text
    options = text.removeprefix(f"{settings.kind}:{settings.place}")
    return f"{settings.kind}:{Path(settings.place).expanduser().resolve()}{options}"


def audit_argument(text: str) -> str:
    """An audit: empty for none, ``TWIN``, or a second judge as ``judge_argument`` gives it.

    Raises:
        PlanError: none of these.
    """
    if text in ("", "none"):
        return ""
    if text == TWIN:
        return TWIN
    try:
        if text in (TRAJECTORY, VIDEO):
            raise JudgeError(f"{text} would be trained on what it is to audit; name one as KIND:PLACE")
        return judge_argument(text)
    except PlanError as error:
        raise PlanError(f"an audit is none, {TWIN} or a second judge: {error}") from error


def check_twin_task(task: str) -> None:
    """That the digital twin has a task.

    Raises:
        PlanError: it has not.
    """
    from robot_bridge.twin.tasks import TASK_IDS

    if task not in TASK_IDS:
        raise PlanError(
            f"the digital twin has no task {task!r} to audit with, it has {', '.join(TASK_IDS)}; give a second judge, "
            "or none"
        )


def judge_folder(judge: str) -> tuple[Path, ...]:
    """The folder of a judge that has one, as a tuple of one or none."""
    settings = parse_judge(judge) if judge and judge != VIDEO else None
    return () if settings is None or settings.kind == "server" else (Path(settings.place),)


def is_settings_file(text: str) -> bool:
    """Whether settings are given as a file, and not by name."""
    return text.endswith((".yaml", ".yml"))


def read_plan(folder: Path) -> OfflinePlan:
    """The plan of a folder.

    Raises:
        PlanError: none there, or one that cannot be run.
    """
    file = folder / PLAN_FILE
    if not file.is_file():
        raise PlanError(f"no {PLAN_FILE} in {folder}")
    raw = json.loads(file.read_text(encoding="utf-8"))
    return OfflinePlan(**{**raw, "bags": tuple(raw["bags"]), "planned": tuple(raw.get("planned", ()))})
