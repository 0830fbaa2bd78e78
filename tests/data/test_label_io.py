"""Label maps: lossy files, other types than 8 bits, and grey label maps with several bands."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import select_errors
from rmrkd_cli.data.label_io import COLOURS, LOSSY, VALUES, LabelFormatError, fix_lossy, read_labels
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from tests.data.check.test_check import info_of
from tests.helpers import trees
from tests.helpers.cli import rmrkd
from tests.helpers.tiff import packed_rows, tiff

LABELS = np.random.default_rng(0).integers(0, 19, (24, 32), dtype=np.uint8)


def saved(kind: str, pixels: np.ndarray = LABELS, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def rgb(labels: np.ndarray, *more: np.ndarray) -> np.ndarray:
    return np.dstack([labels, labels, labels, *more])


LOSSY_FILES = {
    "JPEG": saved("JPEG"),
    "JPEG of the best quality": saved("JPEG", quality=100, subsampling=0),
    "lossy WebP": saved("WEBP", quality=100),
    "lossy animated WebP": saved("WEBP", save_all=True, append_images=[Image.fromarray(LABELS[::-1])], lossless=False),
    "irreversible JPEG 2000": saved("JPEG2000", irreversible=True),
    "truncated JPEG 2000": saved("JPEG2000", quality_layers=[20]),
    "AVIF": saved("AVIF"),
    "TIFF with JPEG compression": saved("TIFF", compression="jpeg"),
}
LOSSLESS_FILES = {
    "PNG": saved("PNG"),
    "TIFF": saved("TIFF"),
    "TIFF with LZW": saved("TIFF", compression="tiff_lzw"),
    "TIFF with Deflate": saved("TIFF", compression="tiff_adobe_deflate"),
    "BMP": saved("BMP"),
    "GIF": saved("GIF"),
    "PGM": saved("PPM"),
    "lossless WebP": saved("WEBP", rgb(LABELS), lossless=True),
    "RGB with equal channels": saved("PNG", rgb(LABELS)),
    "RGBA with equal channels": saved("PNG", rgb(LABELS, np.full_like(LABELS, 255))),
    "RGBA TIFF with equal channels": saved("TIFF", rgb(LABELS, np.full_like(LABELS, 255))),
    "grey with constant transparency": saved("PNG", np.dstack([LABELS, np.full_like(LABELS, 255)])),
}


def png(labels: np.ndarray, bits: int, colour: int = 0) -> bytes:
    """Return a PNG of packed values; Pillow writes grey values with 1, 8 or 16 bits only."""
    rows = b"".join(b"\0" + row for row in packed_rows(labels, bits))
    palette = [(b"PLTE", bytes(range(3 << bits)))] if colour == 3 else []
    header = struct.pack(">IIBBBBB", labels.shape[1], labels.shape[0], bits, colour, 0, 0, 0)
    chunks = [(b"IHDR", header), *palette, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def pnm(number: int, white: int, labels: np.ndarray) -> bytes:
    numbers = np.repeat(labels.ravel(), 3 if number in (3, 6) else 1)
    pixels = " ".join(map(str, numbers)).encode() if number in (2, 3) else numbers.tobytes()
    return b"P%d\n%d %d\n%d\n" % (number, labels.shape[1], labels.shape[0], white) + pixels


def scaled_files(white: int) -> dict[str, bytes]:
    """Return files of values up to `white` that image libraries scale to 0..255, or invert."""
    labels = LABELS_TO[white]
    files = {f"P{number}": pnm(number, white, labels) for number in (2, 3, 5, 6)}
    bits = {3: 2, 15: 4, 255: 8}.get(white)
    if bits:
        files |= {f"TIFF, {photometric}": tiff(labels, bits=bits, photometric=photometric) for photometric in (0, 1)}
        files |= {"big-endian TIFF": tiff(labels, bits=bits, photometric=0, order=">"), "PNG": png(labels, bits)}
    if bits and bits < 8:
        files["PNG with a palette"] = png(labels, bits, 3)
    return files


LABELS_TO = {
    white: np.random.default_rng(white).integers(0, white + 1, (24, 31), dtype=np.uint8)
    for white in (1, 2, 3, 11, 15, 18, 127, 254, 255)
}
WRONG_FILES = {
    "16 bits": (saved("PNG", LABELS.astype(np.uint16)), VALUES, "1 channel of uint16"),
    "floats": (saved("TIFF", LABELS.astype(np.float32)), VALUES, "1 channel of float32"),
    "32-bit integers": (saved("TIFF", LABELS.astype(np.int32)), VALUES, "1 channel of int32"),
    "1 bit": (saved("PNG", LABELS > 5), VALUES, r"1 channel of bool \(mode 1\)"),
    "colours": (saved("PNG", np.dstack([LABELS, LABELS, LABELS.T.reshape(24, 32)])), COLOURS, r"3 channels of uint8"),
    "varying transparency": (saved("PNG", rgb(LABELS, LABELS)), VALUES, "transparency that varies"),
    "two bands": (tiff(rgb(LABELS)[..., :2].copy()), VALUES, "2 channels of uint8"),
    "three bands of 4 bits": (tiff(rgb(LABELS % 16), bits=4), VALUES, "3 channels of uint4, 4-bit integers"),
}


@pytest.mark.parametrize("name", LOSSY_FILES)
def test_a_lossy_label_map_is_an_error_that_names_its_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # whatever its suffix
    path.write_bytes(LOSSY_FILES[name])
    with pytest.raises(LabelFormatError, match=r"a\.png` is stored as .*(JPEG|WebP|AVIF)") as caught:
        read_labels(path)
    assert (caught.value.kind, caught.value.exit_code) == (LOSSY, 2)
    assert pickle.loads(pickle.dumps(caught.value)).kind == LOSSY


@pytest.mark.parametrize(
    ("name", "suffix", "change"),
    [
        ("a.jpg", "", "set `data.label_suffix: .png`"),
        ("a_mask.jpg", "_mask.jpg", "set `data.label_suffix: _mask.png`"),
        ("a.PNG", ".PNG", ""),
        ("a_mask.png", "_mask.png", ""),
    ],
)
def test_the_fix_of_a_lossy_label_map_changes_the_suffix_only_where_needed(name: str, suffix: str, change: str) -> None:
    fix = fix_lossy(name, suffix)
    assert fix.startswith("save the label maps again as PNG from their source")
    assert change in fix
    assert ("label_suffix" in fix) == bool(change)


@pytest.mark.parametrize("name", LOSSLESS_FILES)
def test_a_lossless_label_map_gives_its_values(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(LOSSLESS_FILES[name])
    assert np.array_equal(read_labels(path), LABELS)


@pytest.mark.parametrize("white", LABELS_TO)
def test_values_of_fewer_bits_are_read_as_stored(white: int, tmp_path: Path) -> None:
    """As image libraries make 17 of the 1 in a file of 4 bits, and 255, which is ignored, of its 15."""
    for name, data in scaled_files(white).items():
        (tmp_path / "a.png").write_bytes(data)
        assert np.array_equal(read_labels(tmp_path / "a.png"), LABELS_TO[white]), name


@pytest.mark.parametrize("name", WRONG_FILES)
def test_a_label_map_of_another_type_is_not_corrupt(name: str, tmp_path: Path) -> None:
    data, kind, text = WRONG_FILES[name]
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with pytest.raises(LabelFormatError, match=rf"must hold one 8-bit value per pixel, found .*{text}") as caught:
        read_labels(path)
    assert not isinstance(caught.value, CorruptFileError)
    assert caught.value.kind == kind


def test_check_and_training_name_the_lossy_format_before_any_value(tmp_path: Path) -> None:
    root = trees.camvid(tmp_path / "tree")
    for path in (root / "trainannot").iterdir():
        Image.open(path).save(path, "JPEG")
    info = info_of("camvid", root)
    found = select_errors(check_dataset(info, ["train"], workers=1).findings)
    assert {finding.kind for finding in found} == {"lossy-label"}
    assert all("save the label maps again as PNG" in finding.fix for finding in found)
    with pytest.raises(RmrkdError, match="is stored as JPEG") as caught:
        quick_check(info, {"train": find_samples(info, "train")})
    assert "PNG" in caught.value.hint
    assert all("label_suffix" not in hint for hint in (found[0].fix, caught.value.hint)), "the names end in .png"
    outcome = rmrkd("data", "check", "camvid", "--data-root", root)
    assert "label maps in a format that changes values" in outcome.stdout
    assert "lack a name" not in outcome.stdout
