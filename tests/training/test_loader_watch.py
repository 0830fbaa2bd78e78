"""When the steps wait for images, the log says so, and what helps."""

from __future__ import annotations

import pytest

from rmrkd_cli.training import loader_watch
from rmrkd_cli.training.loader_watch import LoaderWatch


def make(monkeypatch: pytest.MonkeyPatch, *, processes: int, cores: int, cached: bool) -> tuple[LoaderWatch, list[str]]:
    monkeypatch.setattr(loader_watch, "usable_cores", lambda: cores)
    messages: list[str] = []
    return LoaderWatch(processes, 1, cached=cached, log=messages.append), messages


def test_a_slow_loader_is_told_once_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    watch, messages = make(monkeypatch, processes=2, cores=16, cached=False)
    for _ in range(10):
        watch.add(waited=1.2, seconds=2.0)
    assert len(messages) == 1
    watch.report()
    assert messages == [
        "the steps waited for images 60 % of their time: reading images is slower than training. Faster with "
        "--workers 15 (now 2, with 16 cores for each worker), or --cache ram or --cache disk, which keep decoded "
        "images; both can be added with --resume",
        "the steps waited for images 60 % of their time: reading images is slower than training (12 s of 20 s). Faster "
        "with --workers 15 (now 2, with 16 cores for each worker), or --cache ram or --cache disk, which keep decoded "
        "images; both can be added with --resume",
    ]


@pytest.mark.parametrize(("waited", "seconds"), [(0.4, 2.0), (0.04, 0.05)])
def test_a_fast_loader_or_a_short_run_is_not_mentioned(
    waited: float, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    watch, messages = make(monkeypatch, processes=2, cores=16, cached=False)
    for _ in range(100):
        watch.add(waited=waited, seconds=seconds)
    watch.report()
    assert messages == []


def test_advice_names_only_what_can_help(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "--workers" not in make(monkeypatch, processes=15, cores=16, cached=False)[0].advice()
    assert "--cache" not in make(monkeypatch, processes=2, cores=16, cached=True)[0].advice()
    assert make(monkeypatch, processes=15, cores=16, cached=True)[0].advice().startswith("More CPU cores would help")
