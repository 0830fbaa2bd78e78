"""`data prepare cityscapes`: the label maps equal those of mmsegmentation, and no file is overwritten."""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.prepare import cityscapes, pipeline
from rmrkd_cli.data.prepare.new_files import PARTIAL
from rmrkd_cli.installation.requirements import install_command
from tests.helpers.cli import Outcome, rmrkd

NAMES = ("road", "sidewalk", "building", "sky", "car", "cargroup", "persongroup", "license plate", "static", "train")


def converter(name: str) -> types.ModuleType:
    """Import a converter script of mmsegmentation, which its wheel contains."""
    package = importlib.util.find_spec("mmseg")
    assert package is not None
    assert package.origin is not None
    path = Path(package.origin).parent / ".mim/tools/convert_datasets" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"converter_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SQUARE = [[0, 0], [11_000, 0], [11_000, 11_000], [0, 11_000]]
LARGE = {"imgWidth": 11_000, "imgHeight": 11_000}


def polygons(rng: np.random.Generator, size: tuple[int, int] = (64, 128)) -> dict[str, object]:
    height, width = size
    objects = [
        {
            "label": NAMES[int(rng.integers(len(NAMES)))],
            "polygon": (rng.random((5, 2)) * [width * 1.2, height * 1.2] - 5).round().astype(int).tolist(),
        }
        for _ in range(12)
    ]
    objects[3]["deleted"] = 1
    return {"imgHeight": height, "imgWidth": width, "objects": objects}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Six annotated images; the even ones also have a labelIds map."""
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    rng = np.random.default_rng(0)
    for number in range(6):
        split = ("train", "train", "train", "val", "val", "test")[number]
        folder = tmp_path / "city" / "gtFine" / split / "bonn"
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"bonn_{number:06d}_000019"
        drawn = folder / f"{stem}_gtFine_polygons.json"
        drawn.write_text(json.dumps(polygons(rng)))
        if number % 2 == 0:
            json2labelImg(str(drawn), str(drawn).replace("polygons.json", "labelIds.png"), "ids")
        image = tmp_path / "city" / "leftImg8bit" / split / "bonn" / f"{stem}_leftImg8bit.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (128, 64)).save(image)
    return tmp_path / "city"


def prepare(root: Path, workers: int = 1) -> Outcome:
    return rmrkd("data", "prepare", "city", "--data-root", root, "--workers", workers)


def targets(root: Path) -> list[Path]:
    return sorted((root / "gtFine").rglob("*_labelTrainIds.png"))


def test_label_maps_equal_those_of_mmsegmentation(root: Path) -> None:
    outcome = prepare(root, workers=2)
    assert (outcome.exit_code, outcome.message) == (0, "")
    assert "6 files written, 0 already there" in outcome.stdout
    assert "3 train, 2 val, 1 test" in outcome.stdout
    assert f"rmrkd data check cityscapes --data-root {root}" in outcome.stdout
    ours = {path: read_labels(path) for path in targets(root)}
    assert len(ours) == 6
    theirs = converter("cityscapes")
    for path, labels in ours.items():
        path.unlink()
        theirs.convert_json_to_label(str(path).replace("labelTrainIds.png", "polygons.json"))
        assert np.array_equal(read_labels(path), labels)
    assert len({int(value) for labels in ours.values() for value in np.unique(labels)}) >= 7
    assert "0 files written, 6 already there" in prepare(root).stdout


def test_every_label_id_becomes_its_train_id(tmp_path: Path) -> None:
    from cityscapesscripts.helpers.labels import id2label

    ids = np.arange(34, dtype=np.uint8)[None]
    Image.fromarray(ids).save(tmp_path / "x.png")
    made = cityscapes.from_label_ids(tmp_path / "x.png")
    assert made.tolist() == [[id2label[value].trainId for value in range(34)]]


def test_the_next_command_continues_after_a_kill(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, calls = os.link, []

    def link(source: str, target: str) -> None:
        if len(calls) == 3:
            raise KeyboardInterrupt
        calls.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr("rmrkd_cli.storage.atomic.os.link", link)
        assert prepare(root).exit_code not in (0, 2)
    assert len(targets(root)) == 3
    leftover = root / "gtFine/train/bonn" / f".bonn_gtFine_labelTrainIds.png.77{PARTIAL}"
    leftover.write_bytes(b"\x89PNG half")
    before = {path: path.stat().st_mtime_ns for path in targets(root)}
    outcome = prepare(root)
    assert "3 files written, 3 already there" in outcome.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert not list(root.rglob(f"*{PARTIAL}"))


def test_existing_files_are_never_overwritten(root: Path) -> None:
    prepare(root)
    changed, cut = targets(root)[0], targets(root)[4]
    labels = read_labels(changed).copy()
    labels[0, :7] = (labels[0, :7] + 1) % 19
    Image.fromarray(labels).save(changed)
    cut.write_bytes(cut.read_bytes()[:-30])
    targets(root)[1].unlink()
    before = {path: path.read_bytes() for path in (changed, cut)}
    outcome = prepare(root)
    assert outcome.exit_code == 2
    assert "2 problems" in outcome.message
    assert f"`{changed}` differs in 7 pixels; it was not changed" in outcome.message
    assert f"`{cut}` cannot be read as a label map: it is incomplete: the file ends after" in outcome.message
    assert "move the named files away" in outcome.hint
    assert {path: path.read_bytes() for path in before} == before
    assert "1 files written, 3 already there" in outcome.stdout
    for path in before:
        path.unlink()
    assert prepare(root).exit_code == 0


@pytest.mark.parametrize(
    ("contents", "reason"),
    [
        ("{", "is not a valid polygon file: JSONDecodeError"),
        ('{"imgWidth": 5}', "is not a valid polygon file: KeyError: 'imgHeight'"),
        ('{"imgWidth": 1000000, "imgHeight": 1000000, "objects": []}', "image size 1000000x1000000, at most"),
        (
            '{"imgWidth": 9, "imgHeight": 9, "objects": [{"label": "roda", "polygon": [[0, 0], [5, 5], [0, 5]]}]}',
            "Label 'roda' not known",
        ),
        (
            '{"imgWidth": 9, "imgHeight": 9, "objects": [{"label": "car", "polygon": [[0]]}]}',
            "is not a valid polygon file",
        ),
        (
            json.dumps({**LARGE, "objects": [{"label": "car", "polygon": SQUARE}] * 200}),
            "200 objects of up to 11000x11000",
        ),
        ("[" * 5000, "is not a valid polygon file: RecursionError"),
    ],
)
def test_a_bad_polygon_file_is_named_and_the_others_are_converted(contents: str, reason: str, root: Path) -> None:
    bad = root / "gtFine/train/bonn/bonn_000001_000019_gtFine_polygons.json"
    bad.write_text(contents)
    outcome = prepare(root)
    assert outcome.exit_code == 2
    assert f"`{bad}` " in outcome.message
    assert reason in outcome.message
    assert len(targets(root)) == 5


def test_links_to_other_folders_are_noted(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[str] = []
    monkeypatch.setattr("rmrkd_cli.terminal.messages.log", logged.append)
    prepare(root)
    assert "is a link" not in "".join(logged)
    (root / "gtFine").rename(tmp_path / "store")
    (root / "gtFine").symlink_to(tmp_path / "store")
    (tmp_path / "store/val").rename(tmp_path / "other")
    (tmp_path / "store/val").symlink_to(tmp_path / "other")
    assert prepare(root).exit_code == 0
    for link, real in (("gtFine", "store"), ("gtFine/val", "other")):
        assert f"note: `{root / link}` is a link: its files are written into `{tmp_path / real}`" in logged


def test_a_label_map_of_another_size_than_its_image_is_an_error(root: Path) -> None:
    image = next((root / "leftImg8bit").rglob("*_000002_*.png"))
    Image.new("RGB", (100, 50)).save(image)
    outcome = prepare(root)
    assert f"is 128x64, its image `{image}` 100x50" in outcome.message


def test_every_file_is_verified(root: Path) -> None:
    prepare(root)
    conversions = [
        pipeline.Conversion(cityscapes.from_polygons, Path(), path, Path("none"), (*range(19), 255))
        for path in targets(root)
    ]
    assert [pipeline.find_problem(conversion) for conversion in conversions] == [""] * 6
    targets(root)[0].write_bytes(targets(root)[0].read_bytes()[:-9])
    Image.fromarray(np.full((64, 128), 33, np.uint8)).save(targets(root)[1])
    first, second, *others = [pipeline.find_problem(conversion) for conversion in conversions]
    assert "ends after" in first
    assert "contains 33" in second
    assert others == [""] * 4


def test_a_full_disk_leaves_no_partial_file(root: Path) -> None:
    """A limit on file sizes makes writing fail in the same place as a full disk."""
    big = polygons(np.random.default_rng(1), (600, 900))
    path = root / "gtFine/train/bonn/bonn_000001_000019_gtFine_polygons.json"
    path.write_text(json.dumps(big))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, limits[1]))
    try:
        outcome = prepare(root)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert outcome.exit_code == 1
    assert "cannot write" in outcome.message
    assert not list(root.rglob(f"*{PARTIAL}"))
    assert all(read_labels(path).shape == (64, 128) for path in targets(root))


def test_a_missing_source_or_library_is_an_error_with_a_fix(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome = prepare(tmp_path / "none")
    assert outcome.exit_code == 2
    assert "gtFine/{train,val,test}/TOWN/NAME_gtFine_labelIds.png" in outcome.message
    assert "gtFine_trainvaltest.zip" in outcome.hint
    monkeypatch.setitem(sys.modules, "cityscapesscripts.helpers.labels", None)
    cityscapes.train_ids.cache_clear()
    assert prepare(root).hint == install_command("cityscapesscripts>=2.2", "scipy>=1.11")
    assert not targets(root)
