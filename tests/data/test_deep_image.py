"""Values beyond 8 bits, and bands: one rule for every file type, in check, training, evaluation and prediction."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import NOTE, select_errors
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.deep_image import describe_clipping, measure_values
from rmrkd_cli.data.image_cache import ImageCache, create_cache_file
from rmrkd_cli.data.image_file import ImageFormatError
from rmrkd_cli.data.image_io import header_size, inspect_image, read_image
from rmrkd_cli.data.sample_format import SampleFormat
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import CorruptFileError
from rmrkd_cli.prediction.results import clipping_note
from tests.data.check.test_check import info_of
from tests.helpers import trees
from tests.helpers.cli import rmrkd
from tests.helpers.students import random_student
from tests.helpers.tiff import tiff

DRAWN = np.random.default_rng(0).integers(0, 120, (8, 12, 6))
DRAWN[0, 0] = 119
BITS11 = (DRAWN * 17).astype(np.uint16)  # up to 2023
TYPES = (
    np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64,
)  # fmt: skip


def expected(values: np.ndarray, max_value: float | None) -> np.ndarray:
    """Return the pixels (H, W, 3), BGR, of values (H, W) or (H, W, bands)."""
    bands = values[..., None] if values.ndim == 2 else values
    colours = bands[..., 2::-1] if bands.shape[2] > 2 else bands[..., :1].repeat(3, 2)
    if max_value is None:
        return colours
    known = np.nan_to_num(colours.astype(np.float64), posinf=max_value, neginf=0)
    return np.floor(np.clip(known, 0, max_value) * 255 / max_value + 0.5).astype(np.uint8)


def extra_bands(bands: int, photometric: int) -> set[tuple[int, ...]]:
    """Return what a file can say about the bands beyond its colours: nothing, no meaning, or transparency."""
    more = bands - (3 if photometric == 2 else 1)
    return {(), *((kind, *[0] * (more - 1)) for kind in range(3) if more > 0)}


def bands_of(values: np.ndarray, count: int) -> np.ndarray:
    return values[..., 0] if count == 1 else np.ascontiguousarray(values[..., :count])


def read(data: bytes, folder: Path, max_value: float | None = None) -> np.ndarray:
    path = folder / "x.tif"
    path.write_bytes(data)
    pixels = read_image(path, max_value)
    facts = inspect_image(path, max_value)
    assert facts.size == pixels.shape[:2] == header_size(path)
    return pixels


@pytest.mark.parametrize("bands", [1, 3, 4])
@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: np.dtype(kind).name)
def test_a_tiff_of_any_type_is_scaled_by_its_declared_maximum(kind: type, bands: int, tmp_path: Path) -> None:
    """Whatever the file says about the bands: a fourth one is neither multiplied nor read."""
    values = bands_of((DRAWN / 119).astype(kind) if kind in (np.float32, np.float64) else DRAWN.astype(kind), bands)
    white = 0.9 if values.dtype.kind == "f" else 100
    for photometric in (1, 2) if bands > 1 else (1,):
        for extra in extra_bands(bands, photometric):
            for order in "<>":
                data = tiff(values, photometric=photometric, extra=extra, order=order)
                assert np.array_equal(read(data, tmp_path, white), expected(values, white)), (photometric, extra, order)


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_packed_values_are_unpacked(bits: int, tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 1 << bits, (8, 12, 4)).astype(np.uint16)
    for bands in (1, 3, 4):
        part = bands_of(values, bands)
        white = (1 << bits) - 1
        assert np.array_equal(read(tiff(part, bits=bits), tmp_path, white), expected(part, white))


@pytest.mark.parametrize("suffix", [".png", ".ppm", ".pgm", ".tiff"])
def test_other_files_of_16_bits_are_scaled_alike(suffix: str, tmp_path: Path) -> None:
    options = [[]] if suffix != ".tiff" else [[cv2.IMWRITE_TIFF_COMPRESSION, kind] for kind in (1, 5, 8, 32773)]
    written = 0
    for bands in (1, 3, 4):
        values = bands_of(BITS11, bands)
        for option in options:
            try:
                done, data = cv2.imencode(suffix, values if bands == 1 else values[..., [2, 1, 0, 3][:bands]], option)
            except cv2.error:
                continue  # such as a PGM of three bands
            if done:
                assert np.array_equal(read(data.tobytes(), tmp_path, 2047), expected(values, 2047)), (bands, option)
                written += 1
    assert written


@pytest.mark.parametrize("kind", ["JPEG2000", "PNG", "TIFF", "PPM"])
def test_grey_files_of_16_bits_by_pillow_are_scaled_alike(kind: str, tmp_path: Path) -> None:
    values = np.tile(BITS11[..., 0], (8, 8))
    stream = io.BytesIO()
    Image.fromarray(values).save(stream, kind)
    assert np.array_equal(read(stream.getvalue(), tmp_path, 2047), expected(values, 2047))


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_8_bit_tiffs_are_read_as_they_are(bands: int, tmp_path: Path) -> None:
    """OpenCV multiplies the colours by a fourth band, and reads three bands of grey as one."""
    values = bands_of(DRAWN.astype(np.uint8), bands)
    for photometric in (1, 2) if bands > 2 else (1,):
        for extra in extra_bands(bands, photometric):
            for planar in (False, True) if bands > 1 else (False,):
                data = tiff(values, photometric=photometric, extra=extra, planar=planar)
                for max_value in (None, 100):
                    assert np.array_equal(read(data, tmp_path, max_value), expected(values, None)), (photometric, extra)


def test_values_of_fewer_than_8_bits_span_black_to_white(tmp_path: Path) -> None:
    for bits in (1, 2, 4):
        values = np.random.default_rng(0).integers(0, 1 << bits, (8, 12)).astype(np.uint8)
        scaled = values * (255 // ((1 << bits) - 1))
        assert np.array_equal(read(tiff(values, bits=bits), tmp_path), expected(scaled, None))
    for white in (3, 15, 85, 255):
        values = np.random.default_rng(0).integers(0, white + 1, (8, 12)).astype(np.uint8)
        scaled = np.floor(values * 255.0 / white + 0.5).astype(np.uint8)
        for number, contents in ((5, values.tobytes()), (2, " ".join(map(str, values.ravel())).encode())):
            data = b"P%d\n# made by hand\n12 8\n%d\n" % (number, white) + contents
            assert np.array_equal(read(data, tmp_path), expected(scaled, None)), (number, white)


def test_white_may_be_zero_and_floats_may_be_no_number(tmp_path: Path) -> None:
    grey = BITS11[..., 0]
    assert np.array_equal(read(tiff(grey, photometric=0), tmp_path, 2047), 255 - expected(grey, 2047))
    floats = (DRAWN[..., :3] / 119).astype(np.float32)
    floats[0, :3, 0] = np.nan, np.inf, -np.inf
    floats[1, 0] = -0.5, 2.0, 0.5
    pixels = read(tiff(floats), tmp_path, 1.0)
    assert np.array_equal(pixels, expected(floats, 1.0))
    assert pixels[0, :3, 2].tolist() == [0, 255, 0]
    assert pixels[1, 0].tolist() == [128, 255, 0]


@pytest.mark.parametrize(
    ("values", "found", "suggested"),
    [
        (BITS11[..., 0], "16-bit integers up to 2023", 2047),
        (BITS11[..., :3] * 30, "16-bit integers up to 60690", 65535),
        ((DRAWN[..., 0] / 119).astype(np.float32), "32-bit floats up to 1", 1),
        (DRAWN[..., :3].astype(np.float64) * 2, "64-bit floats up to 238", 255),
        (BITS11[..., 0].astype(np.int32), "32-bit signed integers up to 2023", 2047),
        (DRAWN[..., 0].astype(np.int8), "8-bit signed integers up to 119", 127),
        ((DRAWN[..., 0] - 60).astype(np.int8), "8-bit signed integers from -60 up to 59", 127),
        ((DRAWN[..., 0] * 17).astype(np.int16), "16-bit signed integers up to 2023", 2047),
        ((DRAWN[..., 0] * 250).astype(np.int16), "16-bit signed integers up to 29750", 32767),
        ((DRAWN[..., 0] * 25 - 1000).astype(np.int16), "16-bit signed integers from -1000 up to 1975", 2047),
        (np.dstack([BITS11[..., :3], np.full((8, 12), 65535, np.uint16)]), "16-bit integers up to 2023", 2047),
    ],
)
def test_without_a_maximum_the_bit_depth_and_the_fix_are_named(
    values: np.ndarray, found: str, suggested: float, tmp_path: Path
) -> None:
    with pytest.raises(ImageFormatError, match=rf"x\.tif` holds {found}") as caught:
        read(tiff(np.ascontiguousarray(values)), tmp_path)
    assert f"max_value: {suggested}`" in caught.value.hint
    assert ("Values below 0 become 0" in caught.value.hint) == (values.min() < 0)
    assert (caught.value.exit_code, caught.value.suggested) == (2, suggested)
    assert pickle.loads(pickle.dumps(caught.value)).suggested == suggested


def jpeg_of_12_bits() -> bytes:
    data = bytearray(cv2.imencode(".jpg", DRAWN[..., :3].astype(np.uint8))[1].tobytes())
    data[data.index(b"\xff\xc0") + 4] = 12
    return bytes(data)


def saved(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(DRAWN[..., :3].astype(np.uint8)).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "text", "fix"),
    [
        (tiff(DRAWN[..., :5].astype(np.uint8)), "has 5 bands", "gdal_translate -b 1"),
        (tiff(BITS11), "has 6 bands", "gdal_translate -b 1"),
        (tiff(BITS11[..., :2]), "holds 16-bit integers in 2 bands", "convert"),
        (tiff(BITS11[..., :3], planar=True), "stored one after the other", "INTERLEAVE=PIXEL"),
        (tiff(BITS11[..., :4], photometric=5), "16-bit integers in 4 bands", "convert"),
        (tiff(DRAWN[..., :3].astype(np.float16)), "16-bit floats in 3 bands", "convert"),
        (jpeg_of_12_bits(), "12-bit integers", "convert"),
        (b"P2\n2 1\n4095\n7 8\n", "12-bit integers", "convert"),
        (saved("AVIF"), "is a file of type AVIF", "convert"),
        (b"PF\n2 1\n-1\n" + bytes(24), "is a file of type PFM", "convert"),
    ],
)
def test_what_is_not_read_is_named_and_never_called_damaged(data: bytes, text: str, fix: str, tmp_path: Path) -> None:
    for max_value in (None, 2047):
        with pytest.raises(ImageFormatError, match=text) as caught:
            read(data, tmp_path, max_value)
        assert fix in caught.value.hint
        assert caught.value.suggested is None


def test_a_damaged_file_beyond_8_bits_is_damaged(tmp_path: Path) -> None:
    for data in (tiff(BITS11[..., :3])[:-100], cv2.imencode(".png", BITS11[..., :3])[1].tobytes()[:-60]):
        with pytest.raises(CorruptFileError, match="cannot be read as an image"):
            read(data, tmp_path, 2047)
    with pytest.raises(CorruptFileError, match="pixels, at most"):
        read(tiff(BITS11[..., 0]).replace(b"\x0c\0\0\0", b"\0\0\0\x10", 1), tmp_path, 2047)


@pytest.fixture(scope="module")
def deep(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a tree of 8-bit images, and the same with 11 bits in 16-bit files."""
    plain, deep = (trees.camvid(tmp_path_factory.mktemp(name) / "tree") for name in ("plain", "deep"))
    for part in ("train", "val"):
        for path in (deep / part).iterdir():
            pixels = cv2.imread(str(path))
            cv2.imwrite(str(path), np.round(pixels * (2047 / 255)).astype(np.uint16))
    return plain, deep


def test_check_and_training_stop_without_a_maximum(deep: tuple[Path, Path], tiny: Path, tmp_path: Path) -> None:
    root = deep[1]
    outcome = rmrkd("data", "check", "camvid", "--data-root", root, "--json", tmp_path / "check.json")
    assert outcome.exit_code == 2
    found = json.loads((tmp_path / "check.json").read_text())["findings"]
    errors = [finding for finding in found if finding["severity"] == "error"]
    assert {finding["kind"] for finding in errors} == {"image-format"}
    assert len(errors) == 8
    assert all("16-bit integers" in error["text"] and "max_value: 2047`" in error["fix"] for error in errors)
    outcome = rmrkd(
        "train", "--preset", tiny, "--role", "baseline", "--device", "cpu", "--data-root", root, "--work-dir",
        tmp_path / "runs", "--skip-corrupt",
    )  # fmt: skip
    assert outcome.exit_code == 2
    assert "16-bit integers" in outcome.message
    assert "max_value: 2047`" in outcome.hint
    assert not (tmp_path / "runs").exists()


def quick_remarks(info: DatasetInfo) -> list[str]:
    remarks: list[str] = []
    quick_check(info, {"val": find_samples(info, "val")}, log=remarks.append)
    return remarks


def test_check_notes_values_that_do_not_fit_the_maximum(deep: tuple[Path, Path], tmp_path: Path) -> None:
    for white, text in (
        (2047, ""),
        (1000, "above `data.max_value` (1000)"),
        (65535, "% of `data.max_value`: it is dark"),
    ):
        info = info_of("camvid", deep[1], max_value=white)
        findings = check_dataset(info, ["val"], workers=1).findings
        assert select_errors(findings) == []
        notes = [finding for finding in findings if finding.kind == "image-range"]
        assert all(text in note.text and note.severity == NOTE for note in notes)
        assert bool(notes) == bool(text)
        remarks = quick_remarks(info)
        assert any("16-bit integers" in remark and f"0..{white}" in remark for remark in remarks)


CLIPPED = {  # name -> the values of an image (64, 96, 3), the value of white, and what is said about them
    "integers": (
        np.repeat(np.int16([-3000, -1, 0, 500]), 1536 * 3).reshape(64, 96, 3), 1000,
        ["50 % of {} values below 0: they are read as 0; the smallest is -3000"],
    ),
    "floats": (
        np.repeat(np.float32([np.nan, -1, 0.5, 2]), 1536 * 3).reshape(64, 96, 3), 1,
        [
            "25 % of {} values above `data.max_value` (1): they become white; the largest is 2",
            "25 % of {} values below 0: they are read as 0; the smallest is -1",
            "25 % of {} values NaN (not a number): they are read as 0",
        ],
    ),
    "only negative": (
        np.full((64, 96, 3), -5, np.float64), 1,
        ["100 % of {} values below 0: they are read as 0; the smallest is -5"],
    ),
    "kept": (np.full((64, 96, 3), 500, np.int32), 1000, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPPED)
def test_negative_values_and_nan_are_stated_in_check_and_train(name: str, tmp_path: Path) -> None:
    """As int16 images from -3000 to 1680 lost 64 % of their values to black without a word."""
    values, white, texts = CLIPPED[name]
    root = trees.camvid(tmp_path / "tree")
    paths = sorted((root / "val").iterdir())
    for path in paths:
        path.write_bytes(tiff(values))
    info = info_of("camvid", root, max_value=white)
    found = [finding for finding in check_dataset(info, ["val"], workers=1).findings if finding.kind == "image-range"]
    notes = [(finding.file, finding.text) for finding in found if "is dark" not in finding.text]
    assert notes == [(str(path), f"has {text.format('its')}") for path in paths for text in texts]
    assert all(finding.severity == NOTE and finding.fix for finding in found)
    remarks = quick_remarks(info)
    assert remarks[1:] == [f"the images checked in `val` have {text.format('their')}" for text in texts]
    assert ("from -" in remarks[0]) == (np.nanmin(values) < 0)


def test_shares_of_clipped_values_count_every_value_once() -> None:
    """A large image counts more than a small one, and an infinite value is above white or below 0."""
    form = SampleFormat("TIFF", 32, 1, "float")
    large = measure_values(np.float32([[np.inf, -np.inf, 0.1, 0.2, 0.3, 0.4]]), form, 1)
    small = measure_values(np.float32([[np.nan, -2]]), form, 1)
    assert (large.smallest, large.largest, small.smallest) == (np.float32(0.1), np.float32(0.4), -2)
    assert (large.above, large.below, small.below, small.nan) == (1 / 6, 1 / 6, 0.5, 0.5)
    texts = describe_clipping([large, small], "their")
    assert [text.split(" of ")[0] for text in texts.values()] == ["12.5 %", "25 %", "12.5 %"]
    (above, below) = describe_clipping([measure_values(np.float32([[np.inf, -np.inf, 0.5]]), form, 1)]).values()
    assert above.endswith("the largest is inf")
    assert below.endswith("the smallest is -inf")
    assert measure_values(np.float32([[np.nan]]), form, None).largest == 0


def test_a_band_that_is_not_used_is_noted(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "tree")
    for path in (root / "val").iterdir():
        path.write_bytes(tiff(np.dstack([cv2.imread(str(path)), np.zeros((64, 96), np.uint8)]), extra=(2,)))
    info = info_of("camvid", root)
    findings = check_dataset(info, ["val"], workers=1).findings
    assert {(f.kind, f.text) for f in findings if f.kind != "absent-class"} == {
        ("unused-band", "has 4 bands, and the last one is not used")
    }
    assert quick_remarks(info) == ["4 of 4 images in `val` have a band that is not used"]


def test_samples_and_cache_give_the_scaled_pixels(deep: tuple[Path, Path]) -> None:
    plain, scaled = (info_of("camvid", root, max_value=2047) for root in deep)
    files = [SampleFiles(info, find_samples(info, "train")) for info in (plain, scaled)]
    with create_cache_file("ram", files[1]) as cache_file:
        cache = ImageCache(cache_file.path, files[1])
        for index in range(len(files[0])):
            expected_pair = files[0].pair(index)
            for source in (files[1], cache):
                pair = source.pair(index)
                assert np.array_equal(pair.image, expected_pair.image)
                assert np.array_equal(pair.labels, expected_pair.labels)


def test_a_disk_cache_belongs_to_its_maximum(
    deep: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path))
    paths = set()
    for white in (None, 2047, 4095):
        info = info_of("camvid", deep[1], max_value=white)
        with create_cache_file("disk", SampleFiles(info, find_samples(info, "train"))) as cache_file:
            paths.add(cache_file.path)
    assert len(paths) == 3


def test_eval_and_predict_know_the_maximum_from_the_student_alone(
    deep: tuple[Path, Path], tiny: Path, tmp_path: Path
) -> None:
    plain, scaled = deep
    random_student(tmp_path / "student.pth", str(tiny), ["data.max_value=2047"])
    random_student(tmp_path / "older.pth", str(tiny))
    records = []
    for name, root in (("plain", plain), ("scaled", scaled)):
        target = tmp_path / f"{name}.json"
        assert rmrkd("eval", tmp_path / "student.pth", "--data-root", root, "--json", target).exit_code == 0
        record = json.loads(target.read_text())
        records.append(record)
        options = ("--workers", 0, "--out", tmp_path / name)
        assert rmrkd("predict", tmp_path / "student.pth", root / "val", *options).exit_code == 0
    assert records[0]["matrix"] == records[1]["matrix"]
    assert records[0]["protocol"] == records[1]["protocol"]
    assert records[0]["protocol"]["max_value"] == 2047
    for path in (tmp_path / "plain").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "scaled" / path.name).read_bytes()

    refused = rmrkd("eval", tmp_path / "older.pth", "--data-root", scaled)
    assert (refused.exit_code, "max_value: 2047`" in refused.hint) == (2, True)
    refused = rmrkd("predict", tmp_path / "older.pth", scaled / "val", "--workers", 0, "--out", tmp_path / "none")
    assert refused.exit_code == 1
    assert "16-bit integers" in refused.message
    assert "--max-value 2047" in refused.message
    options = ("--workers", 0, "--max-value", 2047, "--out", tmp_path / "given")
    assert rmrkd("predict", tmp_path / "older.pth", scaled / "val", *options).exit_code == 0
    for path in (tmp_path / "plain").glob("*.png"):
        assert path.read_bytes() == (tmp_path / "given" / path.name).read_bytes()


def test_predict_states_values_that_are_not_kept(tiny: Path, tmp_path: Path) -> None:
    random_student(tmp_path / "student.pth", str(tiny), ["data.max_value=1"])
    (tmp_path / "in").mkdir()
    (tmp_path / "in/floats.tif").write_bytes(tiff(CLIPPED["floats"][0]))
    (tmp_path / "in/kept.tif").write_bytes(tiff(np.full((64, 96, 3), 0.5, np.float32)))
    outcome = rmrkd("predict", tmp_path / "student.pth", tmp_path / "in", "--workers", 0, "--out", tmp_path / "out")
    assert outcome.exit_code == 0
    path, texts = tmp_path / "in/floats.tif", [text.format("its") for text in CLIPPED["floats"][2]]
    assert f"`{path}` has {', and '.join(texts)}" in " ".join(outcome.stdout.split("\n"))
    entries = json.loads((tmp_path / "out/predictions.json").read_text())["clipped"]
    assert entries == [{"input": str(path), "above": 0.25, "below": 0.25, "nan": 0.25}]
    found = measure_values(np.float32([[-2, 2]]), SampleFormat("TIFF", 32, 1, "float"), 1)
    assert clipping_note([(path, found), (path, found)]) == (
        f"2 inputs, for example `{path}`, have 50 % of their values above `data.max_value` (1): they become white; the "
        "largest is 2, and 50 % of their values below 0: they are read as 0; the smallest is -2"
    )


def test_a_maximum_must_be_a_positive_number(tiny: Path) -> None:
    outcome = rmrkd("train", "--preset", tiny, "--dry-run", "--set", "data.max_value=0")
    assert outcome.exit_code == 2
    assert "data.max_value" in outcome.message
