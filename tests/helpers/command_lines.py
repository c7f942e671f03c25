"""Whether a command line is one that ``prophrl`` understands, without running it."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def parse_prophrl(command: Sequence[str]) -> argparse.Namespace:
    """Options of ``python -m prophrl_nodes.cli.main COMMAND WORDS``; fails where ``prophrl`` would refuse them."""
    assert list(command[1:3]) == ["-m", "prophrl_nodes.cli.main"]
    name, *words = command[3:]
    module = importlib.import_module(f"prophrl_nodes.cli.{name}")
    parser = argparse.ArgumentParser(allow_abbrev=False, exit_on_error=False)
    module.register(parser)
    options: argparse.Namespace = getattr(module, "parse", argparse.ArgumentParser.parse_args)(parser, words)
    return options
