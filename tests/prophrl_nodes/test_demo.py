"""The demo begins only what it can finish."""

from __future__ import annotations

import json
import shutil
import webbrowser
from pathlib import Path
from types import SimpleNamespace

import pytest
from prophrl_nodes.studies import demo
from prophrl_nodes.studies.demo import Demo, DemoOptions, DemoRefused

ATTEMPT = {"index": 0, "seed": 0, "outcome": "success", "reason": "", "bag_path": "b", "duration_s": 9.0,
           "placement": {}}  # fmt: skip


def with_free(monkeypatch: pytest.MonkeyPatch, gigabytes: float) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=gigabytes * 1e9))


def test_a_demo_that_would_fill_the_disk_is_refused_before_anything_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_free(monkeypatch, 20.0)
    with pytest.raises(DemoRefused, match=r"100 demonstrations and 20 trials need about 30 GB, and 20\.0 GB are free"):
        Demo(DemoOptions(episodes=100, output=tmp_path / "new" / "demo"))
    assert not (tmp_path / "new").exists()
    assert Demo(DemoOptions(episodes=30, output=tmp_path / "new" / "demo")).folder.is_dir()


def test_what_an_interrupted_demo_has_recorded_is_not_counted_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sessions = tmp_path / "sessions"
    sessions.mkdir()
    attempts = [{**ATTEMPT, "accepted": number % 10 != 0} for number in range(100)]
    (sessions / "session.jsonl").write_text("".join(json.dumps(attempt) + "\n" for attempt in attempts))
    with_free(monkeypatch, 10.0)
    demo.check_disk(DemoOptions(episodes=100, output=tmp_path))  # 10 and 20 trials are left: 8.6 GB
    (tmp_path / demo.REPORT).write_text("finished: it will be moved aside, and all begins again")
    with pytest.raises(DemoRefused, match="100 demonstrations"):
        demo.check_disk(DemoOptions(episodes=100, output=tmp_path))


@pytest.mark.parametrize(
    ("program", "said"), [("echo shown %s", "shown file://"), ("false %s", "no browser was found")]
)
def test_without_headless_the_report_is_opened_or_the_user_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], program: str, said: str
) -> None:
    report = tmp_path / demo.REPORT
    report.write_text("a report")
    monkeypatch.setattr(Demo, "run", lambda self: report)
    with_free(monkeypatch, 100.0)
    opener = webbrowser.get(program)  # what BROWSER=program makes of it; asked here, since it is read once a process
    monkeypatch.setattr(webbrowser, "open", opener.open)
    demo.run(DemoOptions(episodes=1, headless=False, output=tmp_path / "demo"))
    assert said in capfd.readouterr().out
