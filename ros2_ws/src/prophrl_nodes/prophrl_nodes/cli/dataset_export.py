"""``prophrl dataset export``: our dataset as a LeRobotDataset v3.0 folder."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from prophrl_nodes.cli.output import megabytes, print_json


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("dataset", type=Path, metavar="DATASET", help="folder of a dataset")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to appear; new or empty")
    parser.add_argument("--format", choices=("lerobot",), default="lerobot", help="LeRobotDataset v3.0")
    parser.add_argument("--codec", choices=("av1", "h264"), default="av1", help="av1 is smaller, h264 plays anywhere")
    parser.add_argument("--crf", type=int, help="quality of the video, smaller is better (av1: 30, h264: 23)")
    parser.add_argument("--camera", default="camera", metavar="NAME", help="the video is observation.images.NAME")
    parser.add_argument("--depth", action="store_true", help="write observation.depth, 16-bit PNG in millimetres")
    parser.add_argument("--action-frames", action="store_true", help="draw observation.images.action_frame")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that encode in parallel")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run the verb."""
    from prophrl_models.data.lerobot.export import export_dataset
    from prophrl_models.data.lerobot.video import VideoCodec

    report = export_dataset(
        options.dataset,
        options.out,
        codec=VideoCodec(options.codec, options.crf),
        camera=options.camera,
        depth=options.depth,
        action_frames=options.action_frames,
        workers=options.workers,
        progress=not options.json,
    )
    if options.json:
        print_json(asdict(report))
        return 0
    print(f"{report.folder}: {report.episodes} episodes, {report.frames} frames, {megabytes(report.bytes)}")
    print(f"{report.recorded_s:.0f} s of recording in {report.seconds:.1f} s, {report.resumed} episodes taken up")
    return 0
