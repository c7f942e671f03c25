"""One module per ROS 2 node; ``python -m prophrl_nodes.nodes.<name>`` runs it, with or without a sourced setup file."""

from prophrl_nodes.environment import ensure_environment, started_as_module

if started_as_module():
    ensure_environment()  # before the node module imports rclpy, whose libraries must be on the path by then
