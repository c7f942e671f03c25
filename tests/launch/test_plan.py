"""From launch files and arguments to processes: scopes, conditions, includes, parameters, remaps."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
from prophrl_nodes.launch_files.arguments import check_known, declared_arguments, describe, parse_assignments
from prophrl_nodes.launch_files.errors import LaunchError
from prophrl_nodes.launch_files.parser import read_launch_file
from prophrl_nodes.launch_files.plan import Plan, make_plan

Run = Callable[..., Plan]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """``files(main, other="...", **arguments)``: the plan of the first text; a package ``pkg`` has ``talk``."""
    executable = tmp_path / "prefix" / "lib" / "pkg" / "talk"
    executable.parent.mkdir(parents=True)
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    marker = tmp_path / "prefix" / "share" / "ament_index" / "resource_index" / "packages" / "pkg"
    marker.parent.mkdir(parents=True)
    marker.touch()
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "prefix"))

    def plan(text: str, other: str = "launch: []", environment: dict[str, str] | None = None, **arguments: str) -> Plan:
        (tmp_path / "main.launch.yaml").write_text(textwrap.dedent(text))
        (tmp_path / "other.launch.yaml").write_text(textwrap.dedent(other))
        return make_plan(read_launch_file(tmp_path / "main.launch.yaml"), arguments, environment or {})

    return plan


def ros_args(plan: Plan, index: int = 0) -> str:
    command = plan.processes[index].command
    return " ".join(command[command.index("--ros-args") + 1 :])


def test_a_default_is_used_unless_the_argument_is_given(files: Run) -> None:
    text = "launch: [{arg: {name: a, default: x$(env B y)}}, {log: {message: $(var a)}}]"
    assert files(text).messages == ("xy",)
    assert files(text, environment={"B": "z"}).messages == ("xz",)
    assert files(text, a="given").messages == ("given",)


def test_a_required_argument_that_is_missing_is_named_with_its_description(files: Run) -> None:
    with pytest.raises(LaunchError, match=r"argument 'a' \(the letter\) has no default; pass a:=VALUE"):
        files("launch: [{arg: {name: a, description: the letter}}]")


def test_choices_are_enforced_on_given_values_and_on_defaults(files: Run) -> None:
    text = "launch: [{arg: {name: a, default: %s, choice: [{value: red}, {value: green}]}}]"
    assert files(text % "red", a="green")
    with pytest.raises(LaunchError, match="a:=gren is not valid; choose one of red, green; did you mean 'green'"):
        files(text % "red", a="gren")
    with pytest.raises(LaunchError, match="a:=blue is not valid"):
        files(text % "blue")


@pytest.mark.parametrize(("value", "expected"), [("true", 1), ("True", 1), ("1", 1), ("false", 0), ("0", 0)])
def test_conditions_choose_what_is_started(files: Run, value: str, expected: int) -> None:
    text = """
        launch:
          - arg: {name: wanted}
          - node: {pkg: pkg, exec: talk, if: $(var wanted)}
          - group: {if: $(var wanted), children: [{node: {pkg: pkg, exec: talk}}]}
          - node: {pkg: pkg, exec: talk, name: other, unless: $(var wanted)}
    """
    processes = files(text, wanted=value).processes
    assert len(processes) == (2 if expected else 1)


def test_a_condition_that_is_neither_true_nor_false_is_an_error(files: Run) -> None:
    with pytest.raises(LaunchError, match="if must be true, 1, false or 0, got 'maybe'"):
        files("launch: [{node: {pkg: pkg, exec: talk, if: maybe}}]")


def test_a_group_keeps_its_variables_environment_and_namespace_to_itself(files: Run) -> None:
    text = """
        launch:
          - let: {name: a, value: outer}
          - group:
              - let: {name: a, value: inner}
              - set_env: {name: E, value: inner}
              - push_ros_namespace: {namespace: left}
              - node: {pkg: pkg, exec: talk, namespace: arm}
              - log: {message: $(var a)}
          - group: {scoped: false, children: [{let: {name: b, value: leaked}}]}
          - node: {pkg: pkg, exec: talk}
          - log: {message: $(var a) $(var b)}
    """
    plan = files(text)
    assert plan.messages == ("inner", "outer leaked")
    assert plan.processes[0].environment["E"] == "inner" and "E" not in plan.processes[1].environment
    assert "__ns:=/left/arm" in ros_args(plan, 0) and "__ns" not in ros_args(plan, 1)


@pytest.mark.parametrize(
    ("pushed", "own", "expected"),
    [("a", "b", "/a/b"), ("a", "/b", "/b"), ("/a/", None, "/a"), ("/", "b", "/b"), ("", None, "/"), (None, "b", "/b")],
)
def test_namespaces_join_as_in_ros_launch(files: Run, pushed: str | None, own: str | None, expected: str) -> None:
    push = "" if pushed is None else f'{{push_ros_namespace: {{namespace: "{pushed}"}}}}, '
    namespace = "" if own is None else f', namespace: "{own}"'
    plan = files(f"launch: [{push}{{node: {{pkg: pkg, exec: talk{namespace}}}}}]")
    assert f"__ns:={expected}" in ros_args(plan).split()


def test_an_included_file_shares_the_scope_and_its_arguments_can_be_set(files: Run, tmp_path: Path) -> None:
    other = """
        launch:
          - arg: {name: a, default: from other}
          - arg: {name: b, default: from other}
          - let: {name: c, value: set by other}
          - log: {message: "$(var a), $(var b), $(dirname)"}
    """
    text = """
        launch:
          - arg: {name: b, default: from main}
          - include: {file: $(dirname)/other.launch.yaml, arg: [{name: a, value: passed $(var b)}]}
          - log: {message: "$(var c), $(var a)"}
    """
    assert files(text, other).messages == (
        f"passed from main, from main, {tmp_path}",
        "set by other, passed from main",
    )


def test_a_required_argument_of_an_included_file_must_be_passed_there(files: Run) -> None:
    """ROS's launch insists on it even when a variable of that name exists."""
    other = "launch: [{arg: {name: needed}}]"
    with pytest.raises(LaunchError, match=r"other\.launch\.yaml requires the argument 'needed'"):
        files("launch: [{arg: {name: needed}}, {include: {file: $(dirname)/other.launch.yaml}}]", other, needed="x")
    passing = "{include: {file: $(dirname)/other.launch.yaml, arg: [{name: needed, value: $(var needed)}]}}"
    assert files(f"launch: [{{arg: {{name: needed}}}}, {passing}]", other, needed="x")


def test_an_error_in_an_included_file_names_both_places(files: Run) -> None:
    other = "launch: [{node: {pkg: pkg, exec: tlak}}]"
    with pytest.raises(LaunchError) as raised:
        files("launch: [{include: {file: $(dirname)/other.launch.yaml}}]", other)
    assert "main.launch.yaml[0].include: other.launch.yaml[0].node: package 'pkg' has no executable 'tlak'" in str(
        raised.value
    )
    assert "did you mean 'talk'?" in str(raised.value)


def test_a_file_that_includes_itself_is_an_error_not_a_hang(files: Run) -> None:
    with pytest.raises(LaunchError, match="includes itself"):
        files("launch: [{include: {file: $(dirname)/main.launch.yaml}}]")


def test_parameters_keep_their_types(files: Run, tmp_path: Path) -> None:
    (tmp_path / "p.yaml").write_text("/**: {ros__parameters: {a: 1}}")
    text = """
        launch:
          - arg: {name: n, default: "12"}
          - node:
              pkg: pkg
              exec: talk
              name: talker
              param:
                - {from: $(dirname)/p.yaml}
                - {name: int, value: 5}
                - {name: float, value: 5.0}
                - {name: flag, value: true}
                - {name: text, value: "5"}
                - {name: read_as_yaml, value: $(var n)}
                - {name: kept_as_text, value: $(var n), type: str}
                - {name: made_float, value: $(var n), type: float}
                - {name: list, value: [1, 2]}
                - {name: outer, param: [{name: inner, value: x}]}
    """
    plan = files(text)
    assert ros_args(plan) == (
        f"-r __node:=talker --params-file {tmp_path}/p.yaml -p int:=5 -p float:=5.0 -p flag:=true "
        '-p text:="5" -p read_as_yaml:=12 -p kept_as_text:="12" -p made_float:=12.0 -p list:=[1, 2] -p outer.inner:="x"'
    )


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("{name: a, value: $(var n), type: int}", "param a must be of type int, got 'many'"),
        ('{name: a, value: "5", type: int}', "got the string '5'; remove the quotes"),
        ("{from: /no/such/file.yaml}", "parameter file /no/such/file.yaml does not exist"),
    ],
)
def test_parameters_that_do_not_fit_are_errors(files: Run, param: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        files(f"launch: [{{let: {{name: n, value: many}}}}, {{node: {{pkg: pkg, exec: talk, param: [{param}]}}}}]")


def test_remaps_arguments_and_environment_reach_the_process(files: Run) -> None:
    text = """
        launch:
          - set_env: {name: A, value: one}
          - node:
              pkg: pkg
              exec: talk
              args: --loud "two words"
              remap: [{from: chatter, to: $(env A)/talk}]
              env: [{name: B, value: $(env A) more}]
              respawn: "true"
              respawn_delay: 1.5
              on_exit: shutdown
          - unset_env: {name: A}
          - executable: {cmd: echo $(var x none), name: greeter, cwd: /tmp}
    """
    first, second = files(text).processes
    assert first.command[1:4] == ("--loud", "two words", "--ros-args")
    assert first.command[-2:] == ("-r", "chatter:=one/talk")
    assert first.environment == {"A": "one", "B": "one more"}
    assert (first.respawn, first.respawn_delay_s, first.required) == (True, 1.5, True)
    assert (second.command, second.name, second.cwd) == (("echo", "none"), "greeter-2", "/tmp")
    assert second.environment == {} and not second.respawn and not second.required


def test_arguments_of_included_files_are_shown_and_known(files: Run, tmp_path: Path) -> None:
    files(
        'launch: [{arg: {name: a, default: "1", description: first}}, {include: {file: $(dirname)/other.launch.yaml}}]',
        "launch: [{arg: {name: b, choice: [{value: x}], description: second, default: x}}]",
    )
    arguments = declared_arguments(read_launch_file(tmp_path / "main.launch.yaml"))
    assert [a.name for a in arguments] == ["a", "b"]
    shown = describe(arguments)
    assert "'a':\n        first\n        (default: '1')" in shown and "one of: x" in shown
    check_known({"b": "x"}, arguments)
    with pytest.raises(LaunchError, match="unknown argument 'aa'; this file takes a, b; did you mean 'a'"):
        check_known({"aa": "1"}, arguments)


def test_assignments_are_split_at_the_first_sign() -> None:
    assert parse_assignments(["a:=1", "b:=x:=y", "a:=2"]) == {"a": "2", "b": "x:=y"}
    for word in ("a=1", ":=1", "a:="):
        with pytest.raises(LaunchError, match="write NAME:=VALUE"):
            parse_assignments([word])
