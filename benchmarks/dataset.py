#!/usr/bin/env python3
"""Bags to dataset, dataset to LeRobotDataset v3.0, and random windows out of both, measured in one run.

Conversion and export are given as times real time: seconds of recording per second of work. For scale stand beside
them: the same messages only decoded, by the generic decoder, and the images only written, as PNG files. Pass bags of
your own, or take synthetic recordings (424x240, with depth).

  benchmarks/dataset.py --bags runs/collect/bags
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prophrl_models.data.bag import Bag, find_bags
from prophrl_models.data.build import build_dataset
from prophrl_models.data.dataset import Dataset, DatasetHeader
from prophrl_models.data.depth import DepthSpec
from prophrl_models.data.lerobot.export import export_dataset
from prophrl_models.data.lerobot.reader import LeRobotReader
from prophrl_models.data.lerobot.video import VideoCodec
from prophrl_models.data.streams import Topics

WINDOW = 21
"""Frames of a world-model chunk."""


@dataclass(frozen=True)
class Cost:
    """What one call took: wall time, and processor time of this process and those it started (all cores)."""

    wall_s: float
    cpu_s: float


def cost(work: Callable[[], Any]) -> Cost:
    """Run it and see. On a machine that others use too, processor time is the figure to compare."""
    before, start_s = os.times(), time.perf_counter()
    work()
    wall_s, after = time.perf_counter() - start_s, os.times()
    return Cost(wall_s, sum(after[:4]) - sum(before[:4]))


def decode_everything(bags: list[Path]) -> None:
    """Every message of the four streams through the generic decoder, images to arrays; nothing is written."""
    topics = Topics()
    for path in bags:
        bag = Bag(path)
        names = [bag.resolve(name) for name in (*topics.of_streams().values(), topics.depth)]
        for message in bag.messages(names):
            decoded = bag.decode(message)
            if hasattr(decoded, "encoding"):
                np.frombuffer(decoded.data, dtype=np.uint8).copy()


def store_pngs(dataset: Dataset, folder: Path) -> int:
    """Every image a PNG file; returns the bytes."""
    for number, episode in enumerate(dataset):
        for step, image in enumerate(episode.color_THW3):
            cv2.imwrite(str(folder / f"{number:06d}-{step:06d}.png"), image[..., ::-1])
    return sum(file.stat().st_size for file in folder.iterdir())


def windows_ms(reader: LeRobotReader, dataset: Dataset, key: str, repeat: int) -> tuple[float, float]:
    """Median milliseconds of a random window of images and actions out of a video and out of our arrays, in turns."""
    rng = np.random.default_rng(0)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeat):
        number = int(rng.integers(len(reader)))
        start = int(rng.integers(max(reader.episodes[number].length - WINDOW, 0) + 1))
        count = min(WINDOW, reader.episodes[number].length)
        times[0].append(cost(lambda n=number, s=start, c=count: reader.window(n, s, c, [key, "action"])).wall_s)
        times[1].append(cost(lambda n=number, s=start, c=count: np.array(dataset[n].color_THW3[s : s + c])).wall_s)
    return 1e3 * statistics.median(times[0]), 1e3 * statistics.median(times[1])


def synthetic_bags(folder: Path, episodes: int) -> list[Path]:
    """Recordings made up by the test suite: genuine messages in genuine bags."""
    from tests.helpers.recording import record

    for number in range(episodes):
        record(10.0, seed=number, depth=True, episode_id=f"synthetic-{number}").write(folder)
    return find_bags([folder])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bags", nargs="+", type=Path, help="bags or folders of bags, with depth")
    parser.add_argument("--episodes", type=int, default=3, help="how many of them (default 3)")
    parser.add_argument("--workers", type=int, default=2, help="processes of the parallel runs (default 2)")
    parser.add_argument("--repeat", type=int, default=60, help="random windows (default 60)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="prophrl-benchmark-") as temporary:
        root = Path(temporary)
        bags = synthetic_bags(root / "bags", options.episodes) if not options.bags else find_bags(options.bags)
        bags = bags[: options.episodes]
        recorded_s = sum((bag.end_ns - bag.start_ns) * 1e-9 for bag in map(Bag, bags))
        megabytes = sum(Bag(path).bytes for path in bags) / 1e6

        def times(name: str, took: Cost, size: float | None = None) -> None:
            row: dict[str, Any] = {"what": name, "times_real_time": round(recorded_s / took.wall_s, 1)}
            row["recorded_s_per_cpu_s"] = round(recorded_s / took.cpu_s, 1)
            print(json.dumps(row | ({} if size is None else {"megabytes": round(size / 1e6, 2)})), flush=True)

        print(json.dumps({"episodes": len(bags), "recorded_s": round(recorded_s, 1), "megabytes": round(megabytes)}))
        header, everything = DatasetHeader(depth=DepthSpec()), ("success", "failure", "unknown")
        for name, depth, workers in (
            ("bags to dataset", None, 0),
            ("bags to dataset, depth", header, 0),
            (f"bags to dataset, depth, {options.workers} processes", header, options.workers),
        ):
            out = root / name.replace(" ", "_")
            build: dict[str, Any] = {"header": depth, "outcomes": everything, "workers": workers, "progress": False}
            times(name, cost(lambda o=out, b=build: build_dataset(bags, o, **b)))
        times("  generic decoder alone", cost(lambda: decode_everything(bags)))

        dataset = Dataset(root / "bags_to_dataset,_depth")
        for codec in ("av1", "h264"):
            for workers in (0, options.workers):
                out = root / f"{codec}-{workers}"
                export: dict[str, Any] = {"codec": VideoCodec(codec), "workers": workers, "progress": False}
                took = cost(lambda o=out, e=export: export_dataset(dataset.folder, o, **e))
                size = sum(file.stat().st_size for file in (out / "videos").rglob("*.mp4"))
                times(f"dataset to LeRobot, {codec}" + f", {workers} processes" * (workers > 0), took, size)
            reader = LeRobotReader(root / f"{codec}-0")
            video_ms, array_ms = windows_ms(reader, dataset, "observation.images.camera", options.repeat)
            row = {"what": f"random window of {WINDOW} frames, {codec}", "ms": round(video_ms, 1)}
            print(json.dumps(row | {"from_our_arrays_ms": round(array_ms, 1)}), flush=True)
        out = root / "deep"
        took = cost(lambda: export_dataset(dataset.folder, out, depth=True, progress=False))
        size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
        times("dataset to LeRobot, av1, depth", took, size)
        (root / "png").mkdir()
        size_of: list[int] = []
        times("  images as PNG files", cost(lambda: size_of.append(store_pngs(dataset, root / "png"))), size_of[0])


if __name__ == "__main__":
    main()
