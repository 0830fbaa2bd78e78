from __future__ import annotations

import multiprocessing
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data import image_cache
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.image_cache import CacheFile, ImageCache, create_cache_file
from rmrkd_cli.data.sample_reader import Pair, SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.presets.schema import Preset
from tests.helpers import trees

PLACES = pytest.mark.parametrize("where", ["ram", "disk"])


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def files(tmp_path: Path) -> SampleFiles:
    return open_files(trees.camvid(tmp_path / "camvid", images=5))


class CountingFiles(SampleFiles):
    """Logs each read sample in a file, for all processes."""

    log: Path

    def pair(self, index: int) -> Pair:
        with self.log.open("a") as stream:
            stream.write(f"{index}\n")
        return super().pair(index)


def open_files(root: Path, cls: type[SampleFiles] = SampleFiles) -> SampleFiles:
    network = {"config": "x"}
    preset = Preset.model_validate(
        {"dataset": "camvid", "data": {"root": str(root)}, "teacher": network, "student": network}
    )
    info = dataset_info(preset)
    return cls(info, find_samples(info, "train"))


def same(ours: Pair, theirs: Pair) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def counted(files: SampleFiles, log: Path) -> CountingFiles:
    own = CountingFiles(files.info, files.samples)
    own.log = log
    log.touch()
    return own


@PLACES
def test_samples_equal_the_files_and_each_is_read_once(where: str, files: SampleFiles, tmp_path: Path) -> None:
    source = counted(files, tmp_path / "log")
    with create_cache_file(where, files) as store:
        for images in (ImageCache(store.path, source), ImageCache(store.path, source)):
            for index in (3, 0, 1, 2, 4, 0):
                assert same(images.pair(index), files.pair(index))
        assert sorted(source.log.read_text().split()) == list("01234")
        with pytest.raises(ValueError, match="read-only"):
            images.pair(0).image[:] = 0


def _read_all(path: str, source: SampleFiles, wrong: object) -> None:
    images = ImageCache(path, source)
    for _ in range(3):
        for index in range(len(images)):
            if not same(images.pair(index), SampleFiles.pair(source, index)):
                wrong.value += 1  # type: ignore[attr-defined]


@PLACES
def test_processes_share_the_cache(where: str, files: SampleFiles, tmp_path: Path) -> None:
    """Spawned processes open the cache by its path, as the ranks of other GPUs do."""
    source = counted(files, tmp_path / "log")
    spawn = multiprocessing.get_context("spawn")
    with create_cache_file(where, files) as store:
        wrong = spawn.Value("i", 0)
        workers = [spawn.Process(target=_read_all, args=(store.path, source, wrong)) for _ in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert wrong.value == 0
    assert sorted(source.log.read_text().split()) == list("01234")


@PLACES
def test_a_changed_file_is_decoded_again(where: str, files: SampleFiles) -> None:
    with create_cache_file(where, files) as store:
        images = ImageCache(store.path, files)
        before = images.pair(1).image.copy()
        sample = files.samples[1]
        Image.fromarray(255 - np.asarray(Image.open(sample.image))).save(sample.image)
        assert same(images.pair(1), files.pair(1))
        assert not np.array_equal(images.pair(1).image, before)
        Image.new("RGB", (7, 5)).save(sample.image)
        Image.new("L", (7, 5)).save(sample.label)
        with pytest.raises(RunError, match="changed during the run"):
            images.pair(1)
        sample.image.unlink()
        with pytest.raises(RunError, match="was deleted or moved"):
            images.pair(1)


def test_a_disk_cache_is_reused_by_the_next_run(files: SampleFiles, tmp_path: Path) -> None:
    source = counted(files, tmp_path / "log")
    for _ in range(2):
        with create_cache_file("disk", files) as store:
            ImageCache(store.path, source).pair(0)
    assert source.log.read_text().split() == ["0"]


def test_other_samples_or_classes_use_another_cache(files: SampleFiles) -> None:
    """Simultaneous runs must not overwrite each other's entries."""
    fewer, turned = SampleFiles(files.info, files.samples[:3]), SampleFiles(files.info, files.samples)
    turned.classes_of = files.classes_of[::-1].copy()
    paths = []
    for each in (files, fewer, turned):
        with create_cache_file("disk", each) as store:
            paths.append(store.path)
            assert same(ImageCache(store.path, each).pair(2), each.pair(2))
    assert len(set(paths)) == 3
    assert all(Path(path).is_file() for path in paths)


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_a_damaged_disk_cache_is_replaced(damage: str, files: SampleFiles) -> None:
    with create_cache_file("disk", files) as store:
        ImageCache(store.path, files).pair(0)
    path = Path(store.path)
    path.write_bytes(path.read_bytes()[:1000] if damage == "cut" else bytes(path.stat().st_size))
    with create_cache_file("disk", files) as again:
        assert same(ImageCache(again.path, files).pair(0), files.pair(0))


def test_a_stamp_is_written_after_the_image(files: SampleFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a process dies in between, the next process writes the entry again."""
    with create_cache_file("ram", files) as store:
        with monkeypatch.context() as patched:
            patched.setattr(os, "fdatasync", _fail)
            with pytest.raises(RunError, match=r"cannot write into the cache of decoded images: .*no space"):
                ImageCache(store.path, files).pair(0)
        assert same(ImageCache(store.path, files).pair(0), files.pair(0))


def _fail(_: int) -> None:
    raise OSError(28, "no space")


def test_errors_name_the_cache(files: SampleFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RunError, match=r"cannot open the cache of decoded images: .*gone"):
        ImageCache(tmp_path / "gone", files).pair(0)
    (tmp_path / "file").touch()
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="cannot create the cache of decoded images") as refused:
        create_cache_file("disk", files)
    assert refused.value.hint == "use --cache off"


def test_memory_is_freed(files: SampleFiles) -> None:
    with create_cache_file("ram", files) as store:
        ImageCache(store.path, files)
        assert Path(store.path).exists()
    assert not Path(store.path).exists()


@pytest.mark.parametrize(("free", "fits"), [(110_000, False), (200_000, True)])
@PLACES
def test_a_cache_that_does_not_fit_is_an_error_with_both_sizes(
    where: str, free: int, fits: bool, files: SampleFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five images of 64x96 pixels with 4 bytes per pixel, and one page each for header and table: 131,072 bytes."""
    monkeypatch.setattr(image_cache, "available_memory", lambda: free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 0, free))  # type: ignore[attr-defined]
    if fits:
        with create_cache_file(where, files) as store:
            assert store.size == 131_072
        return
    with pytest.raises(RmrkdError, match=r"need 0\.00 GB; .* has 0\.00 GB free") as refused:
        create_cache_file(where, files)
    assert ("--cache disk" if where == "ram" else "RMRKD_CACHE") in refused.value.hint


def test_an_exif_rotated_image_keeps_its_shape(tmp_path: Path) -> None:
    """The header of a JPEG gives the size before its EXIF rotation, the decoder after."""
    root = trees.camvid(tmp_path / "camvid", images=2)
    files = open_files(root)
    sample = files.samples[0]
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(sample.image).convert("RGB").save(sample.image, format="JPEG", exif=exif)
    Image.fromarray(np.asarray(Image.open(sample.label)).T.copy()).save(sample.label)
    with create_cache_file("ram", files) as store:
        assert isinstance(store, CacheFile)
        assert ImageCache(store.path, files).pair(0).image.shape == (96, 64, 3)
        assert same(ImageCache(store.path, files).pair(0), files.pair(0))
