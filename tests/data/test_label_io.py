"""Label maps: lossy files, other types than 8 bits, and grey label maps with several bands."""

from __future__ import annotations

import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rmrkd_cli.data.check import check_dataset, quick_check
from rmrkd_cli.data.check.findings import select_errors
from rmrkd_cli.data.label_io import COLOURS, LOSSY, VALUES, LabelFormatError, read_labels
from rmrkd_cli.data.samples import find_samples
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from tests.data.check.test_check import info_of
from tests.helpers import trees
from tests.helpers.cli import rmrkd

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
WRONG_FILES = {
    "16 bits": (saved("PNG", LABELS.astype(np.uint16)), VALUES, "1 channel of uint16"),
    "floats": (saved("TIFF", LABELS.astype(np.float32)), VALUES, "1 channel of float32"),
    "32-bit integers": (saved("TIFF", LABELS.astype(np.int32)), VALUES, "1 channel of int32"),
    "1 bit": (saved("PNG", LABELS > 5), VALUES, r"1 channel of bool \(mode 1\)"),
    "colours": (saved("PNG", np.dstack([LABELS, LABELS, LABELS.T.reshape(24, 32)])), COLOURS, r"3 channels of uint8"),
    "varying transparency": (saved("PNG", rgb(LABELS, LABELS)), VALUES, "transparency that varies"),
}


@pytest.mark.parametrize("name", LOSSY_FILES)
def test_a_lossy_label_map_is_an_error_that_names_its_format(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.png"  # whatever its suffix
    path.write_bytes(LOSSY_FILES[name])
    with pytest.raises(LabelFormatError, match=r"a\.png` is stored as .*(JPEG|WebP|AVIF)") as caught:
        read_labels(path)
    assert (caught.value.kind, caught.value.exit_code) == (LOSSY, 2)
    assert pickle.loads(pickle.dumps(caught.value)).kind == LOSSY


@pytest.mark.parametrize("name", LOSSLESS_FILES)
def test_a_lossless_label_map_gives_its_values(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(LOSSLESS_FILES[name])
    assert np.array_equal(read_labels(path), LABELS)


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
    outcome = rmrkd("data", "check", "camvid", "--data-root", root)
    assert "label maps in a format that changes values" in outcome.stdout
    assert "lack a name" not in outcome.stdout
