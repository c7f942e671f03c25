#!/bin/sh
# Every executable in scripts/ is a link to this file: `ros2 run prophrl_nodes camera` finds <prefix>/lib/prophrl_nodes/camera
# here, and the name it is called by is the module to run. Beside ROS 2 from PyPI the interpreter is the prefix's own.
python="$(dirname "$0")/../../bin/python3"
[ -x "$python" ] || python=python3
exec "$python" -m "prophrl_nodes.nodes.$(basename "$0")" "$@"
