"""Judges of success videos: train one, test one, ask one.

  prophrl reward train runs/judge runs/dataset                              a small classifier, from demonstrations
  prophrl reward train runs/judge runs/dataset --kind trajectory            one that looks at commands, not at videos
  prophrl reward train runs/judge runs/dataset runs/videos --task "put the red cube into the bowl"
  prophrl reward test runs/dataset --classifier runs/judge/classifier       precision and recall on known outcomes
  prophrl reward judge runs/videos --task place_cube --local weights/Qwen2.5-VL-7B-Instruct
  prophrl reward judge a.mp4 --task place_cube --server http://127.0.0.1:8000/v1 --model Qwen/Qwen2.5-VL-72B-Instruct

A folder of labelled videos holds labels.jsonl, or success/ and failure/. The key of a server is read from the
environment variable PROPHRL_VLM_API_KEY. An interrupted training goes on when the same command is given again.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from prophrl_nodes.cli.output import print_json, progress, table

if TYPE_CHECKING:
    from prophrl_models.reward.classifier_data import LabelledVideo
    from prophrl_models.reward.classifier_train import ClassifierTraining
    from prophrl_models.reward.judge import Judge
    from prophrl_models.reward.measure import Judged
    from prophrl_models.reward.trajectory_data import LabelledTrajectory
    from prophrl_models.reward.trajectory_train import TrajectoryTraining
    from prophrl_models.training.loop import Progress


Training = TypeVar("Training", "ClassifierTraining", "TrajectoryTraining")
Known = TypeVar("Known", "LabelledVideo", "LabelledTrajectory")


class UsageError(ValueError):
    """Options that do not go together; the message says which."""


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    what = parser.add_subparsers(dest="what", required=True, metavar="{train,test,judge}")
    train = what.add_parser("train", help="train a success classifier on demonstrations and labelled videos")
    train.add_argument("out", type=Path, metavar="OUT", help="folder of the run, new or to be continued")
    _sources(train)
    train.add_argument(
        "--kind", choices=("video", "trajectory"), default="video",
        help="what it looks at: videos, or where the hand goes in the start picture; the latter needs datasets with "
        "outcomes and a calibrated camera (default: video)",
    )  # fmt: skip
    train.add_argument("--steps", type=int, help="optimiser steps (default: 1500; trajectory 400)")
    train.add_argument("--precision", type=float, help="wanted of the threshold (default: 0.97; trajectory 0.9)")
    train.add_argument("--seed", type=int, default=0, help="of split, initialisation and clips (default: 0)")
    train.add_argument("--threads", type=int, default=0, help="CPU threads (default: all cores)")
    train.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N (default: auto)")

    test = what.add_parser("test", help="precision and recall of a judge on videos of known outcome")
    _sources(test)
    _judges(test)
    test.add_argument("--made", action="store_true", help="also judge failures made of successes (docs/reward.md)")
    test.add_argument("--limit", type=int, metavar="N", help="only the first N videos of each source")
    test.add_argument("--seen", action="store_true", help="also videos that the classifier was trained on")
    test.add_argument("--json", action="store_true", help="print JSON")

    judge = what.add_parser("judge", help="judge a video, or all videos in a folder")
    judge.add_argument("videos", type=Path, metavar="VIDEO", help="video file, or a folder with some")
    judge.add_argument("--task", required=True, help="what should have been done: an instruction, or a task's name")
    _judges(judge)
    judge.add_argument("--json", action="store_true", help="print JSON")


def _sources(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "sources", type=Path, nargs="+", metavar="SOURCE", help="dataset folder, or folder of labelled videos"
    )
    parser.add_argument("--task", help="instruction of videos in success/ and failure/, which do not say it")


def _judges(parser: argparse.ArgumentParser) -> None:
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--classifier", metavar="FOLDER", help="a trained classifier of videos")
    kind.add_argument("--trajectory", metavar="FOLDER", help="a trained classifier of trajectories")
    kind.add_argument("--local", metavar="FOLDER", help="a Qwen2.5-VL or Qwen3-VL model on this machine")
    kind.add_argument("--server", metavar="URL", help="a server of the OpenAI protocol, up to and with /v1")
    parser.add_argument("--model", default="", help="the model's name at the server")
    parser.add_argument("--votes", type=int, default=5, help="votes of a vision-language model (default: 5)")
    parser.add_argument("--needed", type=int, default=3, help="yes votes for a success (default: 3)")
    parser.add_argument("--style", default="bridge", help="prompt for tasks without one (default: bridge)")
    parser.add_argument("--device", default="", help="cpu or cuda (default: a GPU where there is one)")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl reward``."""
    return {"train": _train, "test": _test, "judge": _judge}[options.what](options)


def _train(options: argparse.Namespace) -> int:
    from prophrl_models.reward.classifier_train import ClassifierTraining, train_classifier
    from prophrl_models.reward.trajectory_train import TrajectoryTraining, train_trajectory_classifier
    from prophrl_models.serving.engine import choose_device

    device = str(choose_device(options.device))
    if options.kind == "trajectory":
        learned = _given(TrajectoryTraining(), options)
        folder = train_trajectory_classifier(_datasets(options), options.out, learned, _show, device)
        print(_judgement(folder, learned.wanted_precision))
    else:
        config = _given(ClassifierTraining(), options)
        sources = [(source, options.task) for source in options.sources]
        folder = train_classifier(sources, options.out, config, _show, device)
        print(_judgement(folder, config.wanted_precision))
    print(f"classifier: {folder}")
    return 0


def _given(config: Training, options: argparse.Namespace) -> Training:
    """The settings with what the command says of them."""
    loop = dataclasses.replace(config.loop, seed=options.seed, steps=options.steps or config.loop.steps)
    return dataclasses.replace(
        config, seed=options.seed, threads=options.threads, loop=loop,
        wanted_precision=options.precision or config.wanted_precision,
    )  # fmt: skip


def _datasets(options: argparse.Namespace) -> list[Path]:
    """Sources that must be datasets: videos do not say what was commanded."""
    from prophrl_models.data.dataset_format import DATASET_FILE

    for source in options.sources:
        if not (source / DATASET_FILE).is_file():
            raise UsageError(
                f"{source} is no dataset: a judge of trajectories needs actions and start pictures, as "
                "'prophrl dataset build' writes them"
            )
    return list(options.sources)


def _judgement(folder: Path, wanted_precision: float) -> str:
    """What the threshold is worth on the videos that it was chosen on, in a sentence."""
    from prophrl_models.reward.classifier_files import read_decision, read_provenance

    rates = read_provenance(folder)["validation"]["rates"]["all"]
    precision, recall = rates["precision"] or 0.0, rates["recall"] or 0.0
    threshold = read_decision(folder).threshold
    said = f"threshold {threshold:.2f}: precision {precision:.2f}, recall {recall:.2f} on validation videos"
    if precision < wanted_precision:
        said += (
            f"; {wanted_precision:g} would have cost more than half of the successes: train longer, or add videos "
            "(failures above all)"
        )
    return said


def _show(done: Progress) -> None:
    losses = ", ".join(f"{name} {value:.3f}" for name, value in done.losses.items())
    print(f"step {done.step} of {done.steps}: {losses}", flush=True)


def _test(options: argparse.Namespace) -> int:
    from prophrl_models.reward.measure import judge_all, summary

    judge, trained = _open(options), options.classifier or options.trajectory
    seen = set() if options.seen or not trained else _trained_on(Path(trained))
    skipped: list[str] = []
    if options.trajectory:
        judged = _judged_trajectories(judge, options, seen, skipped)
    else:
        judged = list(judge_all(judge, _labelled(options, seen, skipped), made=options.made))
    if not judged:
        raise UsageError(f"no video to test on ({len(skipped)} were used in training; --seen takes them too)")
    found = {"judge": judge.name, "skipped": len(skipped), **summary(judged)}
    if options.json:
        print_json(found)
        return 0
    print(f"judge: {judge.name}")
    if skipped:
        print(f"{len(skipped)} videos left out: the classifier was trained or tuned on them (--seen takes them too)")
    print(_rates(found["rates"]))
    print()
    print(_mistakes(found["mistakes"]))
    return 0


def _labelled(options: argparse.Namespace, seen: set[str], skipped: list[str]) -> Iterator[LabelledVideo]:
    from prophrl_models.reward.classifier_data import AsRecorded, labelled_videos

    for source in options.sources:
        yield from _unseen(labelled_videos(source, AsRecorded(), options.task), options.limit, seen, skipped)


def _judged_trajectories(judge: Any, options: argparse.Namespace, seen: set[str], skipped: list[str]) -> list[Judged]:
    from prophrl_models.data.dataset import Dataset
    from prophrl_models.reward.trajectory_data import labelled_trajectories
    from prophrl_models.reward.trajectory_train import judge_trajectories

    found = [
        each
        for source in _datasets(options)
        for each in _unseen(labelled_trajectories(Dataset(source)), options.limit, seen, skipped)
    ]
    return judge_trajectories(judge, found, made=options.made)


def _unseen(found: Iterator[Known], limit: int | None, seen: set[str], skipped: list[str]) -> Iterator[Known]:
    """At most ``limit`` of those that were not used in training; the others' ids go into ``skipped``."""
    taken = 0
    for each in found:
        if each.id in seen or each.recording in seen:
            skipped.append(each.id)
        elif limit is None or taken < limit:
            taken += 1
            yield each


def _trained_on(folder: Path) -> set[str]:
    """Videos on which a classifier's weights or threshold depend."""
    from prophrl_models.reward.classifier_files import read_provenance

    videos = read_provenance(folder)["videos"]
    return {*videos["training"], *videos["validation"]}


def _judge(options: argparse.Namespace) -> int:
    from prophrl_models.reward.frames import find_videos, read_video

    if options.trajectory:
        raise UsageError(
            "a video does not say what was commanded; judge it by --classifier, --local or --server, or test the judge "
            "of trajectories on a dataset: prophrl reward test DATASET --trajectory FOLDER"
        )
    judge, rows = _open(options), []
    for path in progress(find_videos(options.videos), "video"):
        (verdict,) = judge.judge([read_video(path)], [options.task])
        rows.append((path, verdict))
    if options.json:
        print_json([{"video": str(path), **dataclasses.asdict(verdict)} for path, verdict in rows])
    else:
        lines = [("video", "verdict", "score", "done at frame", "reason")]
        for path, said in rows:
            finish = "" if said.finish_step is None else str(said.finish_step)
            lines.append((path.name, _word(said.success), f"{said.score:.2f}", finish, said.reason[:90]))
        print(table(lines, right=(2, 3)))
    # Scripts see from the exit code that a judgement is missing.
    return 1 if any(said.success is None for _, said in rows) else 0


def _open(options: argparse.Namespace) -> Judge:
    from prophrl_models.reward.factory import JudgeSettings, open_judge

    if options.server and not options.model:
        raise UsageError("--server needs --model, the name under which it knows the model")
    given = {kind: getattr(options, kind) for kind in ("classifier", "trajectory", "local", "server")}
    kind, place = next((kind, place) for kind, place in given.items() if place)
    settings = JudgeSettings(
        kind, place, options.model, options.votes, options.needed, options.style, options.device
    )  # fmt: skip
    return open_judge(settings)


def _word(success: bool | None) -> str:
    return "no judgement" if success is None else "success" if success else "failure"


def _rates(rates: dict[str, Any]) -> str:
    lines = [("videos of", "successes", "failures", "precision", "95 %", "recall", "95 %", "no judgement")]
    for name, row in rates.items():
        good, bad = row["true_success"] + row["false_failure"], row["true_failure"] + row["false_success"]
        precision = (_share(row["precision"]), _between(row["precision_interval"]))
        recall = (_share(row["recall"]), _between(row["recall_interval"]))
        lines.append((name, str(good), str(bad), *precision, *recall, str(row["no_judgement"])))
    return table(lines, right=range(1, 8))


def _mistakes(mistakes: list[dict[str, Any]]) -> str:
    lines = [("outcome", "kind", "videos", "mistaken", "no judgement")]
    for row in mistakes:
        counts = (str(row[name]) for name in ("videos", "mistaken", "no_judgement"))
        lines.append(("success" if row["success"] else "failure", row["kind"], *counts))
    return table(lines, right=(2, 3, 4))


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _between(interval: list[float] | None) -> str:
    return "" if interval is None else f"{interval[0]:.2f}-{interval[1]:.2f}"
