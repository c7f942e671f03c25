"""``prophrl dataset mixture CONFIG``: draws batches from a mixture of datasets and says what came and how fast."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from prophrl_nodes.cli.output import megabytes, print_json, table


def register(mixture: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    mixture.add_argument("config", type=Path, metavar="CONFIG", help="YAML such as config/train/mixture_paper.yaml")
    mixture.add_argument("--batches", type=int, default=20, metavar="N", help="batches to draw (default 20)")
    mixture.add_argument("--workers", type=int, default=0, metavar="N", help="processes that read ahead (default 0)")
    mixture.add_argument(
        "--statistics", type=Path, metavar="FOLDER", help="collect normalisation statistics and write them here"
    )
    mixture.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl dataset mixture``."""
    from prophrl_models.data.mixture import Mixture
    from prophrl_models.data.mixture_config import MixtureError, load_mixture
    from prophrl_models.data.mixture_loader import MixtureLoader

    if options.batches < 0:
        raise MixtureError(f"--batches must not be negative, got {options.batches}")
    config = load_mixture(options.config)
    mixture = Mixture(config, statistics=options.statistics is not None, progress=_progress)
    written = _write_statistics(mixture, options.statistics) if options.statistics is not None else []
    loader = MixtureLoader(mixture, workers=options.workers)
    drawn = {source.label: 0 for source in mixture.sources}
    shapes: dict[str, tuple[int, ...]] = {}
    size = 0
    started = time.monotonic()
    try:
        for batch in loader.take(options.batches):
            drawn[batch.source] += 1
            shapes[batch.source] = tuple(batch.images_BTHW3.shape)
            size += batch.nbytes
    finally:
        loader.close()
    seconds = time.monotonic() - started
    rows = [
        {
            "source": source.label,
            "dataset": source.dataset.spec.name,
            "episodes": len(source.dataset) - len(source.index.left_out),
            "left_out": [{"episode": number, "reason": reason} for number, reason in source.index.left_out],
            "windows": source.windows,
            "share": source.share,
            "convention": source.convention.name,
            "rate_hz": source.rate_hz,
            "drawn": drawn[source.label],
            "images_BTHW3": shapes.get(source.label),
        }
        for source in mixture.sources
    ]
    if options.json:
        rate = size / 1e6 / seconds if options.batches else None
        speed = {"batches": options.batches, "seconds": seconds, "image_bytes": size, "megabytes_per_s": rate}
        statistics = [str(folder) for folder in written]
        print_json({"weighting": mixture.weighting, "sources": rows, "statistics": statistics, **speed})
        return 0
    lines = [["source", "dataset", "episodes", "windows", "share", "drawn", "actions", "Hz", "images BTHW3"]]
    for row in rows:
        counts = [str(row["episodes"]), str(row["windows"]), f"{row['share']:.3f}", str(row["drawn"])]
        shape = row["images_BTHW3"]
        seen = "x".join(map(str, shape)) if isinstance(shape, tuple) else "-"
        names = [str(row["source"]), str(row["dataset"])]
        lines.append([*names, *counts, str(row["convention"]), f"{row['rate_hz']:g}", seen])
    print(table(lines, right=(2, 3, 4, 5, 7)))
    print(f"shares: {mixture.weighting}")
    if options.batches:
        print(
            f"{options.batches} batches of {config.batch_size}, {megabytes(size)} of pictures in {seconds:.1f} s: "
            f"{size / 1e6 / seconds:.1f} MB/s with {options.workers} workers"
        )
    for source in mixture.sources:
        for number, reason in source.index.left_out:
            print(f"left out {source.label} episode {number}: {reason}")
    for folder in written:
        print(f"statistics in {folder}")
    return 0


def _write_statistics(mixture: object, folder: Path) -> list[Path]:
    from prophrl_models.data.mixture import Mixture

    assert isinstance(mixture, Mixture)
    written = []
    for label, effectors in mixture.statistics.items():
        for number, statistics in enumerate(effectors):
            target = folder / label / f"effector_{number}"
            target.mkdir(parents=True, exist_ok=True)
            statistics.save(target)
            written.append(target)
    return written


def _progress(label: str, done: int, total: int) -> None:
    """One line that is overwritten, where somebody watches."""
    if sys.stderr.isatty() and (done == total or done % 50 == 0):
        print(f"\r{label}: {done} of {total} episodes", end="\n" if done == total else "", file=sys.stderr, flush=True)
