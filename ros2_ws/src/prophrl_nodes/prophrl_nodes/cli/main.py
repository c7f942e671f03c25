"""``prophrl``: one command for the whole pipeline. Only the sub-command that is called is imported."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

OURS = ("prophrl_nodes", "prophrl_models", "robot_bridge", "calibration")


@dataclass(frozen=True)
class Command:
    """A sub-command: the module in this package that defines it, and what it is for in one line."""

    module: str
    summary: str


COMMANDS = {
    "demo": Command("demo", "the whole pipeline on the digital twin: demonstrations, training, trials, report"),
    "doctor": Command("doctor", "check this machine and cell, and say what to do about what is wrong"),
    "launch": Command("launch", "start a launch file: cell, calibrate, collect, policy, evaluate, replay, offline_rl"),
    "calibrate": Command("calibrate", "calibrate camera, leader and gripper; check that the camera has not moved"),
    "bag": Command("bag", "look at, check, repair, pack and replay recorded episodes"),
    "dataset": Command("dataset", "turn bags into a dataset, export and import it; the datasets of others"),
    "train": Command("train", "train a policy on a dataset"),
    "reward": Command("reward", "judges of success videos: train one, test one, ask one"),
    "prophet": Command("prophet", "the world model: codec, training, distillation, evaluation"),
    "rl": Command("rl", "reinforce a policy inside a world model"),
    "serve": Command("serve", "serve a policy to robots on other machines"),
    "trials": Command("trials", "plan blinded trials of policies, and report on them"),
    "twin": Command("twin", "run the digital lab by itself, look into it, break it"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code: 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if words else 2
    if words[0] == "--version":
        print(f"prophrl {_version()}")
        return 0
    name = words[0]
    if name not in COMMANDS:
        print(f"prophrl: unknown command {name!r}; choose one of {', '.join(COMMANDS)}{_meant(name)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"prophrl_nodes.cli.{COMMANDS[name].module}")
    parser = argparse.ArgumentParser(
        prog=f"prophrl {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.register(parser)
    parse = getattr(module, "parse", argparse.ArgumentParser.parse_args)
    return _run(module.run, parse(parser, words[1:]))


def _run(run: object, options: argparse.Namespace) -> int:
    """Run a sub-command; errors that one of our rooms explains are printed, others are bugs and keep their trace."""
    assert callable(run)
    try:
        return int(run(options) or 0)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on where it can", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()  # `prophrl ... | head`: nobody reads any more, and Python would complain at its end
        return 141
    except (FileNotFoundError, PermissionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"error: the disk is full{where}; make room, the same command goes on where it can", file=sys.stderr)
        return 1
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in OURS:
            raise
        print(f"error: {error}", file=sys.stderr)
        return 1


def _overview() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: prophrl COMMAND ...",
            "",
            "From demonstrations on a robot (or its digital twin) to a policy, and trials that say how good it is.",
            "",
            *lines,
            "",
            "prophrl COMMAND --help explains each. To begin: prophrl doctor, then prophrl demo.",
        ]
    )


def _meant(name: str) -> str:
    from prophrl_nodes.launch_files.errors import did_you_mean

    return did_you_mean(name, COMMANDS)


def _version() -> str:
    try:
        return version("prophrl_nodes")
    except PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    sys.exit(main())
