"""Bags of policies' trials to a dataset of what was commanded (``commanded``)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from prophrl_models.data.bag import Bag, BagError, find_bags
from prophrl_models.data.commanded import commanded_episode
from prophrl_models.data.dataset_format import DatasetError, DatasetHeader
from prophrl_models.data.dataset_writer import DatasetWriter


@dataclass(frozen=True)
class CommandedBuild:
    """Bags that became episodes, and those that did not, with the reason."""

    content_hash: str
    episodes: int
    left_out: tuple[tuple[str, str], ...]


def build_commanded(
    bag_dirs: Collection[str | Path],
    out: str | Path,
    header: DatasetHeader | None = None,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> CommandedBuild:
    """Write every bag that holds a policy's chunks; whatever their outcome, and accepted or not.

    Bags that are in the dataset already are not read again. Memory holds one episode at three times its rate, 100 MB
    for 15 s.

    Args:
        bag_dirs: bags, or folders of bags.
        header: convention and synchronisation; that of other datasets it will be used with.
        tell: (bags read, bags in all).

    Raises:
        BagError: a path does not exist.
        DatasetError: no bag of a policy among them, or ``out`` holds something else.
    """
    paths = find_bags(bag_dirs, discarded=True)
    left_out: list[tuple[str, str]] = []
    with closing(DatasetWriter(out, header or DatasetHeader())) as writer:
        for done, path in enumerate(paths):
            tell(done, len(paths))
            try:
                bag = Bag(path)
                if bag.content_id in writer.source_ids:
                    continue
                episode = commanded_episode(bag, writer.header.sync, writer.header.convention)
            except (BagError, ValueError) as reason:
                left_out.append((path.name, str(reason)))
                continue
            writer.add(episode, bag.content_id, source=bag.name, calibration_yaml=bag.calibration_yaml)
        tell(len(paths), len(paths))
        if not writer.rows:
            why = f": {left_out[0][1]}" if left_out else ""
            raise DatasetError(f"no bag of a policy's trial in {', '.join(map(str, bag_dirs))}{why}")
        digest = writer.finish({"source": name, "reason": reason} for name, reason in left_out)
        return CommandedBuild(digest, len(writer.rows), tuple(left_out))
