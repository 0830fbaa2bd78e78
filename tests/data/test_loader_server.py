"""Loader processes come from a server, and not from this process with its threads and its CUDA context."""

from __future__ import annotations

import multiprocessing.forkserver
import os
import pickle
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import Dataset

from rmrkd_cli.data import loader_server
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.image_cache import ImageCache, create_cache_file
from rmrkd_cli.data.loader import prefetch_images
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.distributed.watchdog import is_running
from rmrkd_cli.presets.loader import load_preset
from tests.helpers.forked import server


class Facts(Dataset[tuple[int, int, bool, bool]]):
    """Items are what a loader process says of itself: its id, its parent's, and whether it ignores signals and has
    imported the main module.
    """

    def __getitem__(self, _: int) -> tuple[int, int, bool, bool]:
        ignores = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        return os.getpid(), os.getppid(), ignores, hasattr(sys.modules["__main__"], "__file__")


def test_loader_processes_are_children_of_the_server() -> None:
    items = [tuple(item) for item in prefetch_images(Facts(), 4, workers=2, pin=False)]  # type: ignore[arg-type]
    server = multiprocessing.forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    assert {item[1:] for item in items} == {(server, True, False)}
    assert len({item[0] for item in items}) == 2
    assert server != os.getpid()


def test_loader_processes_end_with_their_command(tmp_path: Path) -> None:
    """Also after SIGKILL, when nobody tells them."""
    command = server().Process(target=_read_and_wait, args=(str(tmp_path),))
    command.start()
    while len(list(tmp_path.iterdir())) < 2 and command.is_alive():
        time.sleep(0.01)
    command.kill()
    command.join()
    loaders = [int(path.name) for path in tmp_path.iterdir()]
    assert len(loaders) == 2
    deadline = time.monotonic() + 10
    while any(is_running(pid) for pid in loaders) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(is_running(pid) for pid in loaders)


def _read_and_wait(folder: str) -> None:
    stream = prefetch_images(Touch(folder), 100, workers=2, pin=False)
    next(iter(stream))
    time.sleep(100)


class Touch(Dataset[int]):
    """Leaves the id of each process that reads an item."""

    def __init__(self, folder: str) -> None:
        self.folder = folder

    def __getitem__(self, index: int) -> int:
        Path(self.folder, str(os.getpid())).touch()
        return index


def test_without_loader_processes_there_is_no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_server.forkserver, "ensure_running", lambda: pytest.fail("started"))
    loader_server.start_loader_server(0)
    assert next(iter(prefetch_images(Facts(), 1, workers=2, pin=False)))[0] == os.getpid()  # type: ignore[index]


def test_an_open_image_cache_is_sent_without_its_images(tiny: Path) -> None:
    info = dataset_info(load_preset(str(tiny)))
    files = SampleFiles(info, find_samples(info, "train"))
    with create_cache_file("ram", files) as made:
        cache = ImageCache(made.path, files)
        pair = cache.pair(0)
        sent = pickle.dumps(cache)
        assert len(sent) < 50_000
        received = pickle.loads(sent).pair(0)
    assert np.array_equal(received.image, pair.image)
