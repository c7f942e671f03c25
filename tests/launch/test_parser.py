"""What the YAML front end accepts, and how it refuses the rest."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from prophrl_nodes.launch_files.errors import LaunchError
from prophrl_nodes.launch_files.parser import LaunchFile, read_launch_file

Read = Callable[[str], LaunchFile]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def read_text(text: str) -> LaunchFile:
        path = tmp_path / "x.launch.yaml"
        path.write_text(textwrap.dedent(text))
        return read_launch_file(path)

    return read_text


NODE = "- node: {pkg: p, exec: e, %s}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- nod: {pkg: p, exec: e}", r"x\.launch\.yaml\[0\]: unknown action 'nod'; known are arg.*did you mean 'node'"),
        (NODE % "naem: x", r"x\.launch\.yaml\[0\]\.node: unknown key 'naem'; known are pkg.*did you mean 'name'"),
        ("- node: {exec: e}", "key 'pkg' is missing"),
        ("- arg: {description: d}", "key 'name' is missing"),
        ("- node: {pkg: p, exec: e}\n  arg: {name: a}", "each list entry is one action"),
        (NODE % "respawn: true", "respawn must be a string, got True; put it in quotes"),
        (NODE % "if: true", "if must be a string, got True; put it in quotes"),
        (NODE % 'if: "1", unless: "1"', "'if' and 'unless' exclude each other"),
        (NODE % "respawn_delay: 2", "respawn_delay must be a number with a decimal point"),
        (NODE % "respawn_max_retries: 1.5", "respawn_max_retries must be a whole number"),
        (NODE % "on_exit: restart", "on_exit must be shutdown, got 'restart'"),
        (NODE % "output: scren", "output must be one of screen, log"),
        (NODE % "remap: {from: a, to: b}", "remap must be a list of mappings"),
        (NODE % "remap: [{from: a}]", r"remap: to must be a string"),
        (NODE % "param: [{value: 1}]", "name must be given"),
        (NODE % "param: [{name: a}]", "value must be given, or nested 'param'"),
        (NODE % "param: [{name: a, value: 1, type: integer}]", "type must be str, int, float or bool"),
        (NODE % "param: [{from: f.yaml, name: a}]", "from must be alone"),
        (NODE % "env: [{name: A, value: 1}]", "env: value must be a string"),
        ("- arg: {name: a, default: 5}", "default must be a string, got 5; put it in quotes"),
        ("- arg: {name: a, choice: [x]}", "expected a mapping with the keys value"),
        ("- let: {name: a}", "key 'value' is missing"),
        ("- group: {scoped: 'true', children: []}", "scoped must be true or false"),
        ("- set_env: {name: A, value: $(oops)}", r"value: '\$\(oops\)': unknown substitution"),
    ],
)
def test_mistakes_are_refused_with_their_place_and_the_remedy(read: Read, text: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        read("launch:\n" + textwrap.indent(text, "  "))


def test_a_file_that_is_no_launch_file_is_refused(read: Read) -> None:
    for text in ("", "lanch: []", "launch: []\nmore: 1", "launch: hello"):
        with pytest.raises(LaunchError, match="expected"):
            read(text)
    with pytest.raises(LaunchError, match="is not valid YAML"):
        read("launch: [")
    with pytest.raises(LaunchError, match="cannot read"):
        read_launch_file(Path("/no/such/file.launch.yaml"))


def test_a_group_may_be_a_list_or_a_mapping(read: Read) -> None:
    listed = read("launch: [{group: [{let: {name: a, value: b}}]}]").actions[0]
    mapped = read("launch: [{group: {scoped: false, children: [{let: {name: a, value: b}}]}}]").actions[0]
    assert listed.children[0].kind == mapped.children[0].kind == "let"
