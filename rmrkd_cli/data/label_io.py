"""Read label maps: one 8-bit class index per pixel, from a file that keeps it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rmrkd_cli.data.file_types import lossy_type
from rmrkd_cli.data.image_file import MAX_BYTES, Picture, check_contents, name_problem, open_image
from rmrkd_cli.data.sample_format import read_format
from rmrkd_cli.errors import RunError
from rmrkd_cli.storage.regular_file import read_regular

LOSSY, COLOURS, VALUES = "lossy", "colours", "values"  # kinds of `LabelFormatError`
FIX_LOSSY = (
    "save the label maps again as PNG from their source, and set `data.label_suffix: .png`: a copy of this file in "
    "another format keeps its errors"
)


class LabelFormatError(RunError):
    """A readable label file that does not hold one 8-bit value per pixel, or does not keep it.

    Attributes:
        kind: `LOSSY`, `COLOURS`, or `VALUES` for values of another type.
    """

    exit_code = 2

    def __init__(self, message: str, hint: str = "", kind: str = "") -> None:
        super().__init__(message, hint)
        self.args = (message, hint, kind)
        self.kind = kind


def read_labels(path: Path) -> Picture:
    """Return the values (H, W) as stored in the file; for a palette PNG these are the indices.

    A grey label map that is stored with three equal bands is read as well.

    Raises:
        CorruptFileError: As `read_image`.
        LabelFormatError: When the file does not hold one 8-bit value per pixel, or its compression changes values.
    """
    with name_problem(path, "a label map"):
        data = read_regular(path, MAX_BYTES)
        if lossy := lossy_type(data):
            raise LabelFormatError(
                f"`{path}` is stored as {lossy}, which does not keep the class indices", FIX_LOSSY, LOSSY
            )
        form = read_format(data)
        if form is None or form.tiff is None:
            check_contents(data)  # a damaged header can claim any format
        if form is not None and form.is_deep:
            raise _label_format_error(path, form.bands, f"{form.type_name}, {form.describe()}")
        if form is not None and form.tiff is not None:
            check_contents(data)
        with open_image(data) as image:
            channels, dtype, mode = *_pixel_type(image), image.mode
            if dtype == np.uint8 and (channels == 1 or mode in ("LA", "RGB", "RGBA")):
                return _one_band(path, np.asarray(image), mode)
    raise _label_format_error(path, channels, f"{dtype} (mode {mode})")


def _label_format_error(path: Path, channels: int, found: str) -> LabelFormatError:
    return LabelFormatError(
        f"`{path}` must hold one 8-bit value per pixel, found {channels} channel{'s' * (channels > 1)} of {found}",
        "save it as an 8-bit PNG",
        VALUES,
    )


def _one_band(path: Path, pixels: Picture, mode: str) -> Picture:
    """Return the label values of a grey image; its bands of colour must be equal, and its transparency constant."""
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., :-1] if mode in ("LA", "RGBA") else pixels
    if any((colours[..., band] != colours[..., 0]).any() for band in range(1, colours.shape[2])):
        raise LabelFormatError(
            f"`{path}` must hold one 8-bit value per pixel, found colours: {pixels.shape[2]} channels of uint8 "
            f"(mode {mode})",
            "write one class index per pixel instead of a colour", COLOURS,
        )  # fmt: skip
    if mode in ("LA", "RGBA") and pixels[..., -1].min() != pixels[..., -1].max():
        raise LabelFormatError(
            f"`{path}` must hold one 8-bit value per pixel, found a band of transparency that varies (mode {mode})",
            "save the class indices as an 8-bit PNG without transparency", VALUES,
        )  # fmt: skip
    return np.ascontiguousarray(colours[..., 0])


def _pixel_type(image: Any) -> tuple[int, np.dtype[Any]]:
    """Return the channels and the type of the pixels, without decoding them."""
    from PIL import ImageMode

    mode = ImageMode.getmode(image.mode)
    return len(mode.bands), np.dtype(mode.typestr)
