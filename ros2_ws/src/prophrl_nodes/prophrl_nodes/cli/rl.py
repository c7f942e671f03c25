"""Reinforce a policy inside a world model.

  prophrl rl replay runs/dataset runs/imagined --world runs/prophet        imagined videos to train the judge on, too
  prophrl rl check runs/dataset --policy runs/sft/policy --world runs/prophet --judge classifier:runs/judge/classifier
  prophrl rl enact runs/enacted --task place_cube --policy runs/sft/policy ...       imagined rollouts, done on the twin
  prophrl rl run runs/dataset runs/rl --policy runs/sft/policy --world runs/prophet \\
      --judge classifier:runs/judge/classifier
  prophrl rl report runs/rl
  prophrl rl offline runs/collect/bags runs/sft/policy runs/offline --world runs/prophet     all stages in one command
  prophrl rl offline runs/trials/bags runs/round_2 --after runs/offline      the next round, with trials of its policy
  prophrl rl ablate runs/dataset runs/rl_ablation --policy runs/sft/policy ...      arms x seeds, measured and compared
  prophrl rl gain runs/reference runs/gain                             does it pay on the twin? all tasks, one command

Each DATASET gives start states: the first picture and state of its episodes. When a policy is reinforced again, what
was held out stays so, and what it was trained on is never held out. Ctrl-C stops a run; the same command goes on where
it stopped. The result is OUT/policy, the report OUT/report.html.
A judge is classifier:FOLDER, local:FOLDER (a vision-language model) or server:ADDRESS,MODEL; options follow after
commas: votes=N, needed=N, style=NAME, of a server also timeout_s=S, deadline_s=S. With --audit-twin the policy is also
tried on the digital twin now and then (data of the twin only): the run stops if that and imagined success part ways;
nothing is learned from it.
Exit codes of "rl check": 0 all gates passed, 3 one failed, 4 not enough evidence, 1 an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from prophrl_models.reward.argument import FORMS, parse_judge
from prophrl_nodes.cli import rl_ablate, rl_enact, rl_gain, rl_offline, rl_replay
from prophrl_nodes.cli.rl_shared import UsageError, add_settings, read_settings

PASSED, FAILED, NOT_ENOUGH = 0, 3, 4
"""Exit codes of ``rl check``; 1 and 2 are an error and wrong usage, as everywhere."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    verbs = "{replay,check,enact,run,report,offline,ablate,gain}"
    what = parser.add_subparsers(dest="what", required=True, metavar=verbs)
    replay = what.add_parser(
        "replay",
        help="imagine logged episodes again: labelled videos for a judge",
        description=rl_replay.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rl_replay.register(replay)
    run_ = what.add_parser("run", help="train; an interrupted run goes on")
    run_.add_argument("datasets", nargs="+", type=Path, metavar="DATASET", help="made by prophrl dataset build")
    run_.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    _sources(run_)
    run_.add_argument("--second-judge", metavar="JUDGE", help="looks at evaluations only; the run stops if they part")
    run_.add_argument("--audit-twin", metavar="TASK", help="audit on the digital twin (data of the twin only)")
    run_.add_argument("--audit-trials", type=int, default=80, metavar="N", help="trials of an audit (default: 80)")
    run_.add_argument("--audit-execute", type=int, default=8, metavar="ROWS", help="as in trials fast (default: 8)")
    run_.add_argument("--steps", type=int, help="rollout batches, instead of what the settings say")
    run_.add_argument("--ray", type=int, default=0, metavar="N", help="roll out in N Ray actors (default: here)")
    run_.add_argument("--ray-gpus", type=float, default=0.0, help="graphics cards for each actor (default: 0)")
    check = what.add_parser(
        "check",
        help="measure whether a run has a chance before starting it",
        epilog="exit code: 0 all gates passed, 3 a gate failed, 4 not enough evidence, 1 an error, 2 wrong usage; "
        "JSON is printed with 0, 3 and 4 only",
    )
    check.add_argument(
        "datasets", nargs="+", type=Path, metavar="DATASET", help="with failures too, if the world is to be checked"
    )
    _sources(check)
    check.add_argument("--starts", type=int, default=16, help="start states that are rolled out (default: 16)")
    check.add_argument("--episodes", type=int, default=32, help="logged episodes that are imagined (default: 32)")
    check.add_argument("--json", action="store_true", help="print JSON")
    enact = what.add_parser(
        "enact",
        help="carry out on the twin what was imagined: are the verdicts true?",
        description=rl_enact.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rl_enact.register(enact)
    report = what.add_parser("report", help="write a run's report anew")
    report.add_argument("out", type=Path, metavar="OUT", help="folder of the run")
    offline = what.add_parser("offline", help="from bags and two checkpoints to a reinforced policy, all stages")
    rl_offline.register(offline)
    ablate = what.add_parser(
        "ablate",
        help="arms x seeds of runs, measured and compared",
        description=rl_ablate.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rl_ablate.register(ablate)
    gain = what.add_parser(
        "gain",
        help="does it pay on the twin? every stage and the trials, for every task",
        description=rl_gain.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    rl_gain.register(gain)


def _sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--policy", type=Path, required=True, metavar="CHECKPOINT", help="policy to start from")
    parser.add_argument("--world", type=Path, required=True, metavar="CHECKPOINT", help="world model")
    parser.add_argument("--judge", required=True, help=FORMS)
    parser.add_argument("--task", action="append", default=[], metavar="INSTRUCTION", help="only starts with this one")
    parser.add_argument("--world-steps", type=int, help="passes of the world model for a chunk (default: its own)")
    add_settings(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl rl``."""
    verbs = {
        "replay": rl_replay.run,
        "check": _check,
        "enact": rl_enact.run,
        "run": _run,
        "report": _report,
        "offline": rl_offline.run,
        "ablate": rl_ablate.run,
        "gain": rl_gain.run,
    }
    return verbs[options.what](options)


def _run(options: argparse.Namespace) -> int:
    from prophrl_models.rl.open_run import open_trainer
    from prophrl_models.rl.trainer import StepReport

    settings = read_settings(options)
    _refuse_idle_judge(options, settings)

    def watch(report: StepReport) -> None:
        s = report.scalars
        print(
            f"step {report.step}/{report.steps}: imagined success {s['imagined_success']:.2f}, groups kept "
            f"{s['kept_fraction']:.0%}, updates {s['updates']:.0f}, {s['rollout_s'] + s['update_s']:.0f} s",
            flush=True,
        )

    trainer = open_trainer(
        _opened(options),
        settings,
        options.out,
        ray_workers=options.ray,
        ray_gpus=options.ray_gpus,
        examiner=_examiner(options, settings) if options.audit_twin else None,
        audit=_audit(options),
        watch=watch,
    )
    try:
        folder = trainer.run()
    finally:
        trainer.executor.close()
    for entry in trainer.facts.evaluations:
        said = f"held out, after {entry['step']:.0f} steps: {entry['success']:.2f} of {entry['rollouts']:.0f} rollouts"
        said += f", mean score {entry['score']:.2f}" if "score" in entry else ""
        print(said + (f", audited {entry['audited']:.2f}" if "audited" in entry else ""))
    if trainer.facts.stopped:
        print(f"stopped: {trainer.facts.stopped}")
        delivered = trainer.facts.best_step if trainer.facts.best_step >= 0 else trainer.facts.step
        print(f"the result is the policy after {delivered} steps")
    print(f"checkpoint: {folder}")
    print(f"report: {options.out / 'report.html'}")
    return 0


def _refuse_idle_judge(options: argparse.Namespace, settings: Any) -> None:
    if options.second_judge and not settings.watch.evaluate_every:
        raise UsageError(
            "--second-judge looks at evaluations on held-out starts, and there are none: watch.evaluate_every is 0; "
            "change the settings or leave the second judge out"
        )


def _examiner(options: argparse.Namespace, settings: Any) -> Any:
    from prophrl_models.training.checkpoint import read_checkpoint
    from prophrl_nodes.cli.tasks import check_tasks
    from prophrl_nodes.studies.fast_trials import TrialSettings
    from prophrl_nodes.studies.twin_examiner import TwinExaminer, open_parts

    check_tasks([options.audit_twin])
    if options.second_judge:
        raise UsageError("choose --audit-twin or --second-judge: one run has one measure of the truth")
    watch = settings.watch
    if not (watch.evaluate_every and watch.audit_every) or watch.audit_every % watch.evaluate_every:
        raise UsageError(
            f"audits come with evaluations: watch.audit_every must be a multiple of watch.evaluate_every, got "
            f"{watch.audit_every} and {watch.evaluate_every}; change the settings"
        )
    if options.audit_trials < 1:
        raise UsageError(f"an audit needs at least one trial, got {options.audit_trials}")
    trials = TrialSettings(options.audit_twin, options.audit_trials, options.audit_execute)
    files = read_checkpoint(options.policy)
    examiner = TwinExaminer(trials, lambda: open_parts(_opened(options), settings), sync=files.sync)
    examiner.check(files.spec)
    print(
        f"audit: {options.audit_trials} trials of {options.audit_twin} on the digital twin every {watch.audit_every} "
        "steps, with its geometric judge; not for policies of a real robot"
    )
    return examiner


def _audit(options: argparse.Namespace) -> str:
    """The audit on the twin as the run remembers it: in the words that ask for it."""
    if not options.audit_twin:
        return ""
    how = f"--audit-trials {options.audit_trials} --audit-execute {options.audit_execute}"
    return f"--audit-twin {options.audit_twin} {how}"


def _check(options: argparse.Namespace) -> int:
    import numpy as np
    import torch

    from prophrl_models.data.dataset import Dataset
    from prophrl_models.rl.check import CheckSettings, LabelledVideo, run_check
    from prophrl_models.rl.open_run import open_worker
    from prophrl_models.rl.replays import joined_episodes, logged_attempts
    from prophrl_models.rl.seen import SeenInTraining
    from prophrl_nodes.cli.output import print_json

    settings, sources = read_settings(options), _opened(options)
    if settings.threads:
        torch.set_num_threads(settings.threads)
    worker = open_worker(sources, settings)
    datasets = [Dataset(folder) for folder in options.datasets]
    seen = SeenInTraining.of(sources.judge, sources.world)
    logged = joined_episodes(datasets, most=options.episodes, seed=settings.seed, seen=seen)
    filmed = [e for e in logged if e.frames_THW3 is not None]
    attempts = logged_attempts([np.asarray(e.frames_THW3) for e in filmed], filmed, worker.world.convention)
    labelled = [
        LabelledVideo(a.video_THW3, a.task, e.success, e.seen_by_judge, a.trajectory)
        for a, e in zip(attempts, filmed, strict=True)
    ]
    report = run_check(
        worker.policy,
        worker.world,
        worker.judge,
        worker.starts,
        settings.rollout,
        labelled=labelled,
        logged=logged,
        settings=CheckSettings(starts=options.starts),
        precision=settings.update.precision,
        seed=settings.seed,
        say=None if options.json else lambda line: print(line, flush=True),
    )
    if options.json:
        print_json(report.to_json())
    else:
        print(report.text())
    return FAILED if report.failed else PASSED if report.passed else NOT_ENOUGH


def _report(options: argparse.Namespace) -> int:
    from prophrl_models.rl.report import write_report
    from prophrl_models.training.log import LOG_FILE

    if not (options.out / LOG_FILE).is_file():
        raise UsageError(f"{options.out} is no folder of a reinforcement run: it has no {LOG_FILE}")
    print(f"report: {write_report(options.out)}")
    return 0


def _opened(options: argparse.Namespace) -> Any:
    from prophrl_models.rl.open_run import Sources
    from prophrl_models.serving.engine import choose_device

    second = getattr(options, "second_judge", None)
    return Sources(
        policy=options.policy,
        world=options.world,
        datasets=tuple(options.datasets),
        judge=parse_judge(options.judge),
        auditor=parse_judge(second) if second else None,
        instructions=tuple(options.task),
        device=str(choose_device(options.device)),
        world_steps=options.world_steps,
    )
