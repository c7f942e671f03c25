"""For colcon (ament_python): puts launch files, configuration and the package marker under share/.

``pip install`` needs pyproject.toml only; the set-up script links the same files into the environment.
"""

from pathlib import Path

from setuptools import setup

HERE = Path(__file__).parent


def tree(folder: str) -> list[tuple[str, list[str]]]:
    """(target, files) pairs that reproduce a folder under share/prophrl."""
    folders = sorted({path.parent for path in (HERE / folder).rglob("*.yaml")})
    return [
        (f"share/prophrl/{f.relative_to(HERE)}", [str(p.relative_to(HERE)) for p in sorted(f.glob("*.yaml"))])
        for f in folders
    ]


setup(
    data_files=[
        ("share/ament_index/resource_index/packages", ["config/ament/prophrl"]),
        ("share/prophrl", ["package.xml"]),
        *tree("launch"),
        *tree("config"),
    ],
)
