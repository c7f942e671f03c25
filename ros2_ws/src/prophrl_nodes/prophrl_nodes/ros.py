"""The one import for a node: base class, runner, and the pieces most nodes use."""

from prophrl_nodes.diagnostics import Health, Level, Value
from prophrl_nodes.images import ImageMessage
from prophrl_nodes.meters import RateMeter
from prophrl_nodes.node_base import CELL_PARAMETERS, ProphNode, Refused
from prophrl_nodes.node_runner import run
from prophrl_nodes.parameters import ParameterError, ParameterSpec
from prophrl_nodes.periodic import PeriodicThread

__all__ = [
    "CELL_PARAMETERS",
    "Health",
    "ImageMessage",
    "Level",
    "ParameterError",
    "ParameterSpec",
    "PeriodicThread",
    "ProphNode",
    "RateMeter",
    "Refused",
    "Value",
    "run",
]
