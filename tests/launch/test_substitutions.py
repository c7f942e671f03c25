"""``$(...)`` in launch files."""

from __future__ import annotations

from pathlib import Path

import pytest
from prophrl_nodes.launch_files.errors import LaunchError
from prophrl_nodes.launch_files.plan import split_words
from prophrl_nodes.launch_files.substitutions import Context, parse, perform

CONTEXT = Context({"cell": "twin", "name": "cell", "words": "a b"}, {"HOME": "/home/me"}, Path("/files"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("", ""),
        ("$(var cell)", "twin"),
        ("<$(var cell)/$(var cell)>", "<twin/twin>"),
        ("$(var $(var name))", "twin"),
        ("$(var missing default)", "default"),
        ("$(var missing 'two words')", "two words"),
        ("$(env HOME)/bags", "/home/me/bags"),
        ("$(env NOT_SET 0)", "0"),
        ("$(dirname)/cell.launch.yaml", "/files/cell.launch.yaml"),
        ("\\$(var cell)", "$(var cell)"),
        ("5 $ and (parentheses)", "5 $ and (parentheses)"),
        ("""$(eval "'$(var cell)' == 'twin'")""", "True"),
        ("$(eval '2 * (3 + 4)')", "14"),
        ("""$(eval "'$(var cell)' in ['a', 'b'] or not 1 > 2")""", "True"),
    ],
)
def test_texts_are_evaluated_as_by_ros_launch(text: str, expected: str) -> None:
    assert perform(parse(text), CONTEXT) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(vra cell)", r"unknown substitution \$\(vra\); known are var, env.*did you mean 'var'"),
        ("$(var)", r"\$\(var\) takes 1 to 2 arguments, got 0"),
        ("$(dirname x)", r"takes 0 arguments, got 1"),
        ("$(var cell", r"expected '\)'"),
        ("$(var 'cell)", r"a quote ' is not closed"),
    ],
)
def test_malformed_texts_are_refused_when_they_are_read(text: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("$(var cel)", r"\$\(var cel\): not set; set are cell, name, words; did you mean 'cell'"),
        ("$(env NOT_SET)", "the environment variable is not set"),
        ("$(find-pkg-share no_such_package)", "package 'no_such_package' is not installed"),
        ("$(eval '1 +')", "invalid syntax"),
        ("$(eval '1 / 0')", "division by zero"),
    ],
)
def test_texts_that_cannot_be_evaluated_say_why(text: str, message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        perform(parse(text), CONTEXT)


@pytest.mark.parametrize("expression", ["__import__('os').getcwd()", "open('x')", "().__class__", "[x for x in 'ab']"])
def test_expressions_can_compute_but_not_act(expression: str) -> None:
    with pytest.raises(LaunchError, match="is not supported, only plain expressions"):
        perform(parse(f'$(eval "{expression}")'), CONTEXT)


def test_a_command_line_is_split_in_the_file_not_within_substitutions() -> None:
    template = parse("run --say $(var words) 'c d' --cell=$(var cell)$(var words)")
    assert split_words(template, CONTEXT) == ["run", "--say", "a b", "c d", "--cell=twina b"]


def test_quotes_around_a_substitution_are_refused_as_by_ros_launch() -> None:
    with pytest.raises(LaunchError, match="no quotes around substitutions"):
        split_words(parse("run '$(var words)'"), CONTEXT)
