"""Studies of many commands: finished ones are skipped, failures do not spread, orphans are waited for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from prophrl_nodes.studies.ablation_jobs import Job, StudyChanged, claim_study, run_jobs, running


def job(folder: Path, name: str, code: str, *, needs: Path | None = None) -> Job:
    """A command that writes NAME when it is done."""
    result = folder / name
    script = f"{code}\nopen({str(result)!r}, 'w').close()"
    ready = needs.is_file if needs else lambda: True
    return Job(name, [sys.executable, "-c", script], folder / f"{name}.log", result.is_file, ready)


def test_what_is_done_is_not_repeated_and_a_failure_stops_only_what_needs_it(tmp_path: Path) -> None:
    counted = tmp_path / "count"
    count = f"open({str(counted)!r}, 'a').write('x')"
    jobs = [
        job(tmp_path, "first", count),
        job(tmp_path, "broken", "print('error: no luck'); raise SystemExit(1)"),
        job(tmp_path, "needs_broken", count, needs=tmp_path / "broken"),
        job(tmp_path, "last", count),
    ]
    told: list[str] = []
    failed = run_jobs(jobs, after=lambda done, failures: told.append(done.name))
    assert list(failed) == ["broken"] and "no luck" in failed["broken"]
    assert told == ["first", "last"] and counted.read_text() == "xx"
    jobs[1] = job(tmp_path, "broken", "")  # mended
    said: list[str] = []
    assert run_jobs(jobs, say=said.append) == {}
    assert counted.read_text() == "xxx" and said == [
        "2 of 4 parts are done already",
        "[3/4] broken",
        "[4/4] needs_broken",
    ]


def test_a_command_that_ends_without_its_result_has_failed(tmp_path: Path) -> None:
    idle = Job("idle", [sys.executable, "-c", "pass"], tmp_path / "log", lambda: False)
    assert "ended without its result" in run_jobs([idle])["idle"]


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="only Linux tells command lines")
def test_a_child_that_outlived_its_study_is_waited_for_and_not_started_twice(tmp_path: Path) -> None:
    counted = tmp_path / "count"
    slow = job(tmp_path, "slow", f"import time; open({str(counted)!r}, 'a').write('x'); time.sleep(2)")
    assert running(slow.command) is None
    orphan = subprocess.Popen(list(slow.command))
    try:
        while not counted.is_file():  # until it has become the command
            assert orphan.poll() is None
        said: list[str] = []
        assert running(slow.command) == orphan.pid
        assert run_jobs([slow], say=said.append) == {}
        assert any(f"process {orphan.pid} of an earlier call" in line for line in said)
        assert counted.read_text() == "x"
    finally:
        orphan.wait(30)


def test_a_folder_belongs_to_one_study_which_may_grow(tmp_path: Path) -> None:
    facts = {"data": "abc", "seeds": [0], "settings": {"a": {"beta": 1}}}
    claim_study(tmp_path, facts, may_grow=("seeds",), arms="settings")
    more = {**facts, "seeds": [0, 1], "settings": {"b": {"beta": 2}}}
    claim_study(tmp_path, more, may_grow=("seeds",), arms="settings")
    for changed, said in (
        ({**facts, "data": "abd"}, "data was 'abc', is 'abd'"),
        ({**facts, "settings": {"b": {"beta": 3}}}, "settings.b.beta was 2, is 3"),
        ({**facts, "settings": {"a": {"beta": 4}}}, "settings.a.beta was 1, is 4"),
    ):
        with pytest.raises(StudyChanged, match=said):
            claim_study(tmp_path, changed, may_grow=("seeds",), arms="settings")
