"""Start a launch file: the devices of a cell, data collection, a policy, an evaluation.

  prophrl launch                                    list the launch files
  prophrl launch collect --show-args                what can be set
  prophrl launch collect task:=place_cube episodes:=20
  prophrl launch policy cell:=ur30e checkpoint:=runs/policy

These are ordinary ROS 2 launch files. Where ROS's own `launch` can be imported it runs them; elsewhere a runner of our
own does. Ctrl-C stops everything in order.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from prophrl_nodes.launch_files.arguments import check_known, declared_arguments, describe, parse_assignments
from prophrl_nodes.launch_files.packages import find_launch_file, launch_files
from prophrl_nodes.launch_files.parser import LaunchFile, read_launch_file


def register(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("file", nargs="?", help="name of a launch file (see the list), or a path")
    parser.add_argument("assignments", nargs="*", metavar="NAME:=VALUE", help="arguments of the launch file")
    parser.add_argument("-s", "--show-args", action="store_true", help="show what the launch file takes, start nothing")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that would be run, start nothing")
    parser.add_argument("--own-runner", action="store_true", help="use our runner even where ROS's launch is there")


def parse(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.Namespace:
    """Options may stand anywhere among the assignments."""
    return parser.parse_intermixed_args(words)


def run(options: argparse.Namespace) -> int:
    """Run ``prophrl launch``."""
    if options.file is None:
        print("launch files:")
        for name, path in launch_files().items():
            print(f"  {name:<10}{_headline(path)}")
        return 0
    path = find_launch_file(options.file)
    file = read_launch_file(path)
    arguments = declared_arguments(file)
    if options.show_args:
        print(describe(arguments))
        return 0
    values = parse_assignments(options.assignments)
    check_known(values, arguments)
    if not options.dry_run and not options.own_runner and importlib.util.find_spec("launch_ros") is not None:
        return _run_with_ros(path, options.assignments)
    return _run_with_our_own(file, values, dry_run=options.dry_run)


def _run_with_our_own(file: LaunchFile, values: Mapping[str, str], *, dry_run: bool) -> int:
    from prophrl_nodes.environment import ros_environment
    from prophrl_nodes.launch_files.plan import make_plan
    from prophrl_nodes.launch_files.runner import Runner

    plan = make_plan(file, values, ros_environment())
    if dry_run:
        for process in plan.processes:
            print(f"[{process.name}] {shlex.join(process.command)}")
        return 0
    for message in plan.messages:
        print(message)
    return Runner(plan.processes).run()


def _run_with_ros(path: Path, assignments: Sequence[str]) -> int:
    from prophrl_nodes.environment import ros_environment

    os.environ.update(ros_environment())  # for the nodes; nothing of ROS is loaded in this process yet
    launch = importlib.import_module("launch")
    sources = importlib.import_module("launch.launch_description_sources")
    service = launch.LaunchService(argv=list(assignments))
    include = launch.actions.IncludeLaunchDescription(
        sources.AnyLaunchDescriptionSource(str(path)), launch_arguments=parse_assignments(assignments).items()
    )
    service.include_launch_description(launch.LaunchDescription([include]))
    return int(service.run())


def _headline(path: Path) -> str:
    """The comment at the top of a launch file."""
    with open(path, encoding="utf-8") as file:
        return file.readline().lstrip("# ").strip()
