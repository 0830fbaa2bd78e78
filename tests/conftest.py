"""Shared by all tests: a cache of their own, a fixed terminal, and small presets."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.browser import HOW_TO_INSTALL, may_skip

os.environ["COLUMNS"] = "160"
os.environ["NO_COLOR"] = "1"
# A step of a tiny network allocates and frees the same memory again and again: a fifth of the time is the system's, to
# map it and clear its pages. It is kept; processes that start after this heed it.
for setting in ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"):
    os.environ.setdefault(setting, str(1 << 30))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # the networks are tiny, and two test processes share the cores

if sys.dont_write_bytecode:
    # As many containers set it, and uv installs no bytecode: each of some thirty interpreters would compile torch anew,
    # ten seconds long. They share a folder of this session.
    sys.pycache_prefix = os.environ["PYTHONPYCACHEPREFIX"] = tempfile.mkdtemp(prefix="rmrkd-bytecode-")
    sys.dont_write_bytecode = False
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    BYTECODE: str | None = sys.pycache_prefix
else:
    BYTECODE = None

TINY = """
dataset: camvid
role: all
data: {{root: {root}, train_scale: [96, 64], eval_scale: [96, 64]}}
teacher:
  config: pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py
  init: scratch
  overrides:
    backbone.base_channels: 16
    backbone.stem_channels: 16
    decode_head.in_channels: 128
    decode_head.channels: 16
    auxiliary_head.in_channels: 64
    auxiliary_head.channels: 16
student:
  config: pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py
  init: scratch
  overrides:
    backbone.base_channels: 8
    backbone.stem_channels: 8
    decode_head.in_channels: 64
    decode_head.channels: 8
    auxiliary_head.in_channels: 32
    auxiliary_head.channels: 8
losses:
  rmrkd: {{type: rmrkd, weight: 1.0}}
  mgd: {{type: mgd, weight: 2.0e-5}}
  dkd: {{type: dkd, weight: 1.0}}
schedule:
  {{iters: 4, batch_size: 2, crop: [48, 48], workers: 0, eval_interval: 2, checkpoint_interval: 2, log_interval: 1}}
"""


NO_BROWSER = "no Chromium on PATH"


def pytest_unconfigure() -> None:
    """Remove the bytecode of this session, in the process that made the folder."""
    if BYTECODE is not None:
        shutil.rmtree(BYTECODE, ignore_errors=True)


# The files whose slow tests take longest. With `--dist loadfile --no-loadscope-reorder` they start first, so that both
# processes end at about the same time.
LONGEST = (
    "fake_cuda/test_fake_cuda.py", "installation/test_installers.py", "cli/test_any_text.py",
    "benchmarks/test_camvid.py", "networks/test_library_runs.py", "examples/test_examples.py",
    "distributed/test_coordination.py", "training/test_presets_step.py",
    "benchmarks/test_gpu.py", "distributed/test_launcher.py", "distributed/test_external_launcher.py",
    "docs/test_real_runs.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest slow tests first. Skip tests in a browser where there is none, unless one is required."""
    places = {Path(__file__).parent / name: place for place, name in enumerate(LONGEST)}

    def place(item: pytest.Item) -> int:
        return places.get(item.path, len(LONGEST)) if item.get_closest_marker("slow") else len(LONGEST)

    items.sort(key=place)
    if may_skip():
        for item in items:
            if item.get_closest_marker("browser"):
                item.add_marker(pytest.mark.skip(reason=NO_BROWSER))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many tests did not run for want of a browser, and how to get one."""
    left_out = [report for report in terminalreporter.stats.get("skipped", []) if NO_BROWSER in str(report.longrepr)]
    if left_out:
        terminalreporter.write_line(
            f"{len(left_out)} tests of the HTML report did not run: {NO_BROWSER}. To run them: {HOW_TO_INSTALL}"
        )


@pytest.fixture(autouse=True, scope="session")
def _one_server() -> None:
    """Loader processes, commands and workers are forked from one server, which imports once.

    It starts in this repository's folder, even if the test that needs it first has changed the folder: mmsegmentation's
    wheel contains a package `tests` too, and the server would import that one.
    """
    from rmrkd_cli.data import loader_server
    from tests.helpers import forked

    loader_server.PRELOAD[:] = forked.PRELOAD
    server: Any = forkserver._forkserver  # type: ignore[attr-defined]
    start = server.ensure_running

    def start_here() -> None:
        if server._forkserver_pid is not None:
            start()
            return
        before = os.getcwd()
        os.chdir(Path(__file__).parents[1])
        try:
            start()
        finally:
            os.chdir(before)

    server.ensure_running = forkserver.ensure_running = start_here


@pytest.fixture(autouse=True)
def _like_the_command() -> None:
    """Print messages and handle signals as the command does, also where a test calls a function of the package."""
    from rmrkd_cli.signals import own_signals
    from rmrkd_cli.terminal.messages import show_messages

    show_messages()
    own_signals()


@pytest.fixture(autouse=True, scope="session")
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    os.environ["RMRKD_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def camvid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CamVid tree of four 96x64 images a split."""
    from tests.helpers import trees

    return trees.camvid(tmp_path_factory.mktemp("camvid"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory, camvid: Path) -> Path:
    """A preset file whose three roles train in seconds."""
    path = tmp_path_factory.mktemp("preset") / "tiny.yaml"
    path.write_text(TINY.format(root=camvid))
    return path


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """The file of a student of `tiny` with random weights, in a folder without any other file."""
    from tests.helpers.students import random_student

    created = tmp_path_factory.mktemp("run") / "student.pth"
    random_student(created, str(tiny))
    return Path(shutil.copy(created, tmp_path_factory.mktemp("alone") / "student.pth"))


@pytest.fixture
def forked_workers() -> Iterator[None]:
    """Jobs of several workers fork them from a process that has torch and mmsegmentation imported."""
    from tests.helpers.forked import launched_by_forking

    with launched_by_forking():
        yield


@pytest.fixture
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every file had been right when the run began."""
    monkeypatch.setattr("rmrkd_cli.training.preflight.quick_check", lambda *_, **__: None)
