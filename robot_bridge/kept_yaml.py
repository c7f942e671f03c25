"""Write a YAML file in one step, and keep the one of before under its own date: a calibration can be taken back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import yaml


def replace_yaml(path: Path, document: Mapping[str, Any]) -> Path | None:
    """Write ``document`` so that no reader ever sees half of it; folders are made.

    Returns:
        Where the file of before was kept, ``name.DATE.yaml`` beside it; None when there was none.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    kept = None
    if path.exists():
        stamp = datetime.fromtimestamp(path.stat().st_mtime, timezone.utc).strftime("%Y%m%dT%H%M%S_%fZ")
        kept = path.with_name(f"{path.stem}.{stamp}{path.suffix}")
        shutil.copy2(path, kept)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    with temporary.open("w") as file:
        yaml.safe_dump(dict(document), file, sort_keys=True, default_flow_style=None, width=120)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return kept
