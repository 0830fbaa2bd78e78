"""Damaged image files: the loader and the check name each one, for images and label maps."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from rmrkd_cli.data import image_file
from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import NOTE, select_errors
from rmrkd_cli.data.image_file import ImageFormatError
from rmrkd_cli.data.image_io import MAX_PIXELS, header_size, inspect_image, read_image
from rmrkd_cli.data.label_histogram import count_values
from rmrkd_cli.data.label_io import read_labels
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from tests.data.check.test_check import info_of
from tests.helpers import trees


def png_claiming(width: int, height: int) -> bytes:
    """Return a valid PNG of a few bytes whose header claims any size."""

    def part(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + part(b"IHDR", header) + part(b"IDAT", zlib.compress(bytes(99))) + part(b"IEND", b"")


def flipped(data: bytes, place: int, bits: int = 0x10) -> bytes:
    return data[:place] + bytes([data[place] ^ bits]) + data[place + 1 :]


DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "half": lambda data: data[: len(data) // 2],
    "last two bytes": lambda data: data[:-2],
    "last part": lambda data: data[:-12],
    "first byte": lambda data: flipped(data, 0),
    "header": lambda data: data[:20],
    "nothing left": lambda data: b"",
    "zeros": lambda data: bytes(len(data)),
    "text": lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "web page": lambda data: b"<!DOCTYPE html><html></html>",
    "bomb": lambda data: png_claiming(60_000, 60_000),
    "too few pixels": lambda data: png_claiming(500, 500),
    "folder": lambda data: None,
}
PNG_ONLY: dict[str, Callable[[bytes], bytes | None]] = {
    "a bit in the pixels": lambda data: flipped(data, len(data) // 2),
    "a hole": lambda data: data[: len(data) // 2] + data[len(data) // 2 + 20 :],
}


@pytest.mark.parametrize(
    ("where", "damage"),
    [(where, name) for where in ("train", "trainannot") for name in (*DAMAGES, *PNG_ONLY)]
    + [("JPEGImages", name) for name in DAMAGES],
)
def test_loader_and_check_report_every_damage(
    where: str, damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if where == "JPEGImages":
        info = info_of("voc12aug", trees.voc12aug(tmp_path / "tree"))
        path = info.root / "JPEGImages" / "2007_train001.jpg"
    else:
        info = info_of("camvid", trees.camvid(tmp_path / "tree"))
        path = info.root / where / "1.png"
    samples = find_samples(info, "train")
    index = next(n for n, sample in enumerate(samples) if path in (sample.image, sample.label))
    data = {**DAMAGES, **PNG_ONLY}[damage](path.read_bytes())
    path.unlink()
    path.mkdir() if data is None else path.write_bytes(data)
    with pytest.raises(CorruptFileError) as caught:
        SampleFiles(info, samples).pair(index)
    assert f"`{path}`" in caught.value.message
    assert caught.value.path == str(path)
    assert str(pickle.loads(pickle.dumps(caught.value)).path) == str(path)
    _in_this_process(monkeypatch)
    found = select_errors(check_dataset(info, ["train"], workers=1).findings)
    assert len(found) == 1
    assert found[0].kind in ("corrupt-label", "corrupt-image", *(("missing-image",) if data is None else ()))
    assert str(path) in (found[0].file + found[0].text)
    with pytest.raises(RmrkdError, match=path.name):
        quick_check(info, {"train": samples})


def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Starting a process would take half a second for each of these tests."""
    from contextlib import nullcontext

    monkeypatch.setattr("rmrkd_cli.data.check.pair_scan.worker_pool", lambda *_: nullcontext(map))


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return len(content).to_bytes(4, "big") + kind + content + zlib.crc32(kind + content).to_bytes(4, "big")


@pytest.mark.parametrize(
    "chunk",
    [
        png_chunk(b"iCCP", b"profile\0\0" + zlib.compress(bytes(2 << 20))),
        png_chunk(b"zTXt", b"notes\0\0" + zlib.compress(bytes(2 << 20))),
        png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(b" " * (2 << 20))),
        png_chunk(b"tEXt", b"notes\0" + b"x" * (70 << 20)),
    ],
    ids=["colour profile", "compressed text", "XMP", "long text"],
)
def test_large_metadata_of_a_png_is_no_damage(chunk: bytes, tmp_path: Path) -> None:
    picture = np.arange(64 * 48 * 3, dtype=np.uint8).reshape(48, 64, 3)
    data = encoded(".png", picture)
    path = tmp_path / "a.png"
    path.write_bytes(data[:33] + chunk + data[33:])  # behind the header
    assert inspect_image(path, decode=False).size == (48, 64)
    assert np.array_equal(read_image(path), picture)


def test_metadata_that_unpacks_to_more_than_the_limit_is_refused(tmp_path: Path) -> None:
    data = encoded(".png", np.zeros((48, 64, 3), np.uint8))
    chunk = png_chunk(b"zTXt", b"notes\0\0" + zlib.compress(bytes((1 << 27) + 1)))
    (tmp_path / "a.png").write_bytes(data[:33] + chunk + data[33:])
    with pytest.raises(CorruptFileError, match="too large"):
        read_image(tmp_path / "a.png")


def encoded(suffix: str, picture: np.ndarray, *options: int) -> bytes:
    return bytes(cv2.imencode(suffix, picture, list(options))[1].tobytes())


SMOOTH = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8), (0, 0), 2)
LABELS = np.random.default_rng(0).integers(0, 19, (12, 16), dtype=np.uint8)
PNG, LABEL_PNG = encoded(".png", SMOOTH), encoded(".png", LABELS)
JPEGS = [encoded(".jpg", SMOOTH), encoded(".jpg", SMOOTH, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("picture") / "x"


damaged_bytes = st.tuples(st.booleans(), st.floats(0, 1, exclude_max=True), st.integers(1, 255))


def _damage_bytes(data: bytes, how: tuple[bool, float, int]) -> bytes:
    cut, at, bits = how
    spot = int(at * len(data))
    return data[:spot] if cut else flipped(data, spot, bits)


@settings(max_examples=300, deadline=None)
@given(damaged_bytes)
def test_a_changed_png_is_an_error_or_gives_its_pixels(place: Path, how: tuple[bool, float, int]) -> None:
    for data, read, truth in ((PNG, read_image, SMOOTH), (LABEL_PNG, read_labels, LABELS)):
        place.write_bytes(_damage_bytes(data, how))
        try:
            picture = read(place)
        except CorruptFileError as error:
            assert str(place) in error.message  # noqa: PT017
        else:
            assert np.array_equal(picture, truth)


def test_each_changed_bit_of_a_png_header_is_damage(place: Path) -> None:
    """Also where it claims another bit depth, as the checksum shows."""
    for spot in range(12, 33):
        for bit in range(8):
            place.write_bytes(flipped(PNG, spot, 1 << bit))
            with pytest.raises(CorruptFileError, match="cannot be read as an image"):
                read_image(place)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(JPEGS), damaged_bytes)
def test_a_truncated_jpeg_is_an_error_and_a_changed_one_at_most_gives_wrong_pixels(
    place: Path, data: bytes, how: tuple[bool, float, int]
) -> None:
    """A JPEG has no checksums, so a changed byte may give wrong pixels in every decoder, or another number of bits or
    bands. Truncation is always detected."""
    place.write_bytes(_damage_bytes(data, how))
    try:
        picture = read_image(place)
    except CorruptFileError as error:
        assert str(place) in error.message  # noqa: PT017
    except ImageFormatError as error:
        assert re.search("holds (9|1[0-6])-bit integers|has [0-9]+ bands", error.message)  # noqa: PT017
        assert not how[0]
    else:
        assert not how[0]
        assert picture.ndim == 3


def test_the_check_notes_decoder_warnings_about_changed_jpegs(tmp_path: Path) -> None:
    """In worker processes, which know the image that a printed warning belongs to."""
    info = info_of("voc12aug", trees.voc12aug(tmp_path / "tree", images=2))
    path = info.root / "JPEGImages" / "2007_val001.jpg"
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + data[middle + 200 :])
    findings = check_dataset(info, ["val"], workers=1).findings
    assert select_errors(findings) == []
    [note] = [finding for finding in findings if finding.kind == "damaged-image"]
    assert (note.severity, note.file) == (NOTE, str(path))
    assert "premature end of data" in note.text


def _exif(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stream = io.BytesIO()
    picture.save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_valid_files_give_the_pixels_and_size_of_imread(tmp_path: Path) -> None:
    picture = Image.fromarray(SMOOTH)
    files = {f"{n}.jpg": _exif(picture, n) for n in range(1, 9)}
    for suffix in (".png", ".jpg", ".bmp", ".tif", ".webp"):
        files[f"colour{suffix}"] = encoded(suffix, SMOOTH)
        files[f"grey{suffix}"] = encoded(suffix, SMOOTH[..., 0])
    files["progressive.jpg"] = JPEGS[1]
    files["alpha.png"] = encoded(".png", np.dstack([SMOOTH, SMOOTH[..., :1]]))
    files["trailing.jpg"] = JPEGS[0] + b"\0" * 9
    for mode, kind in (("P", "PNG"), ("1", "PNG"), ("LA", "PNG"), ("CMYK", "JPEG"), ("RGBA", "WEBP")):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, kind)
        files[f"{mode}.x"] = stream.getvalue()
    for mode in ("P", "1", "L", "RGB", "CMYK", "LA"):
        stream = io.BytesIO()
        picture.convert(mode).save(stream, "TIFF")
        files[f"{mode}.tif"] = stream.getvalue()
    for name, data in files.items():
        path = tmp_path / name
        path.write_bytes(data)
        assert np.array_equal(read_image(path), cv2.imread(str(path), cv2.IMREAD_COLOR)), name
        assert inspect_image(path, decode=False).size == read_image(path).shape[:2]
        with Image.open(path) as image:
            assert header_size(path)[::-1] == image.size


def test_a_palette_png_gives_its_indices(tmp_path: Path) -> None:
    picture = Image.fromarray(LABELS).convert("P")
    picture.putdata(LABELS.ravel().tolist())
    picture.putpalette(np.random.default_rng(0).integers(0, 255, 768).tolist())
    picture.save(tmp_path / "x.png")
    assert np.array_equal(read_labels(tmp_path / "x.png"), LABELS)


@pytest.mark.parametrize("suffix", [".jpg", ".bmp", ".gif"])
def test_a_header_that_claims_too_many_pixels_takes_no_memory(suffix: str, tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("L", (64, 64)).save(stream, {".jpg": "JPEG", ".bmp": "BMP", ".gif": "GIF"}[suffix])
    data = bytearray(stream.getvalue())
    if suffix == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", 60_000, 60_000)
    elif suffix == ".bmp":
        data[18:26] = struct.pack("<ii", 60_000, 60_000)
    else:
        data[6:10] = struct.pack("<HH", 60_000, 60_000)
    (tmp_path / f"x{suffix}").write_bytes(bytes(data))
    tracemalloc.start()
    for read in (read_image, *((read_labels,) if suffix != ".jpg" else ())):  # a JPEG is no label map
        with pytest.raises(CorruptFileError, match=rf"60000x60000 pixels, at most {MAX_PIXELS}"):
            read(tmp_path / f"x{suffix}")
    assert tracemalloc.get_traced_memory()[1] < 10e6
    tracemalloc.stop()


def test_listed_names_may_not_point_outside_the_data_set(tmp_path: Path) -> None:
    info = info_of("voc12aug", trees.voc12aug(tmp_path / "tree"))
    path = info.root / "ImageSets/Segmentation/val.txt"
    for name in ("../x", "a/../../x", "/etc/x", "..", "a\\..\\x", "C:\\x", "\\x", "x\0y"):
        path.write_text(f"2007_val000\n\n{name}\n")
        with pytest.raises(RmrkdError, match=r"val\.txt` line 3: the name"):
            find_samples(info, "val")
        assert [f.kind for f in select_errors(check_dataset(info, ["val"], workers=1).findings)] == ["bad-name"]
    path.write_text("2007_val000\r\n2007_val001\r\n\r\n")
    assert len(find_samples(info, "val")) == 2
    path.write_bytes(b"\xff\xfe2\x000\x00")
    with pytest.raises(RmrkdError, match="not UTF-8"):
        find_samples(info, "val")


def test_no_program_is_started_for_an_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    """Pillow gives EPS to Ghostscript, whatever the file name."""
    started, program = tmp_path / "started", tmp_path / "bin/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {started}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for only once
    path = tmp_path / "0.png"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n")
    with Image.open(path) as picture, suppress(OSError):
        picture.load()
    assert started.exists()  # so it would be found
    started.unlink()
    for read in (read_image, read_labels, inspect_image, header_size):
        with pytest.raises(CorruptFileError, match=r"0\.png` cannot be read as .*: it is not an image"):
            read(path)
    assert not started.exists()


def test_pillow_knows_every_allowed_format() -> None:
    Image.init()
    assert set(image_file.FORMATS) <= set(Image.OPEN)


def test_one_module_opens_images_with_pillow() -> None:
    package = Path(image_file.__file__).parents[1]
    assert [path.name for path in package.rglob("*.py") if "Image.open" in path.read_text()] == ["image_file.py"]


def test_value_counts_are_exact_and_take_no_copy() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 256, (300, 500), dtype=np.uint8)
    assert np.array_equal(count_values(labels), np.bincount(labels.ravel(), minlength=256))
    large = np.zeros((1, (1 << 24) + 3), np.uint8)  # more than a float32 counts
    large[0, -2:] = 255
    tracemalloc.start()
    counts = count_values(large)
    assert tracemalloc.get_traced_memory()[1] < 1e6
    tracemalloc.stop()
    assert (counts[0], counts[255], counts.sum()) == ((1 << 24) + 1, 2, large.size)
