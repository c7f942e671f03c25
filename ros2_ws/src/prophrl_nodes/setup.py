"""For colcon (ament_python): package marker, executables under lib/prophrl_nodes, and what old setuptools must be told.

``pip install`` reads pyproject.toml; setuptools before 61 (Ubuntu 22.04) does not know its [project] table, so name,
packages and data stand here as well.
"""

from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
EXECUTABLES = sorted(str(path.relative_to(HERE)) for path in (HERE / "scripts").iterdir())

setup(
    name="prophrl_nodes",
    version="0.1.0",
    packages=find_packages(include=["prophrl_nodes", "prophrl_nodes.*"]),
    package_data={"": ["*.xml", "*.html", "*.css", "*.js"]},
    data_files=[
        ("share/ament_index/resource_index/packages", ["resource/prophrl_nodes"]),
        ("share/prophrl_nodes", ["package.xml"]),
        ("lib/prophrl_nodes", EXECUTABLES),
    ],
)
