"""``prophrl dataset sources``: what the registry knows of the paper's datasets."""

from __future__ import annotations

import argparse

from prophrl_nodes.cli.output import print_json, table


def register(sources: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    sources.add_argument("name", nargs="?", metavar="NAME", help="one dataset in full, with its open questions")
    sources.add_argument("--json", action="store_true", help="print JSON")


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl dataset sources``."""
    from prophrl_models.data.registry.specs import SPECS, spec

    chosen = list(SPECS.values()) if options.name is None else [spec(options.name)]
    if options.json:
        print_json(
            [
                {
                    "name": entry.name,
                    "title": entry.title,
                    "robot": entry.robot,
                    "convention": entry.convention.name,
                    "rate_hz": entry.rate_hz,
                    "gripper": entry.gripper,
                    "gripper_from": entry.gripper_from,
                    "effectors": entry.effectors,
                    "height": entry.resolution.height,
                    "width": entry.resolution.width,
                    "fit": entry.resolution.fit.value,
                    "camera": entry.camera.value,
                    "formats": entry.formats,
                    "folders": entry.folders,
                    "sources": entry.sources,
                    "open_questions": entry.open_questions,
                }
                for entry in chosen
            ]
        )
        return 0
    lines = [["name", "dataset", "actions", "Hz", "arms", "gripper, raw", "size", "camera", "read from"]]
    for entry in chosen:
        size = f"{entry.resolution.height}x{entry.resolution.width}"
        camera = entry.camera.name.lower()
        words = [entry.name, entry.title, entry.convention.name, f"{entry.rate_hz:g}", str(entry.effectors)]
        lines.append([*words, entry.gripper, size, camera, ", ".join(entry.formats)])
    print(table(lines, right=(3, 4)))
    if options.name is not None:
        _details(chosen[0].camera.value, chosen[0].sources, chosen[0].open_questions)
    return 0


def _details(camera: str, sources: tuple[str, ...], questions: tuple[str, ...]) -> None:
    print(f"\ncamera: {camera}")
    for title, entries in (("facts from", sources), ("open questions", questions)):
        if entries:
            print(f"\n{title}:")
            for entry in entries:
                print(f"  - {entry}")
