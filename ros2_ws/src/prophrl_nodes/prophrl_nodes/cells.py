"""The parameters ``cell`` and ``host`` of a node, made into a cell configuration."""

from __future__ import annotations

from robot_bridge.cell import CellConfig, load_cell
from robot_bridge.cell_files import find_cell


def open_cell(cell: str, host: str = "") -> CellConfig:
    """Load the cell of that name or path; ``host`` replaces ``{host}`` in it.

    Raises:
        CellError: not found, or not a valid cell file.
    """
    return load_cell(find_cell(cell), host=host)
