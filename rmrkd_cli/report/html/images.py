"""Images as data URIs."""

from __future__ import annotations

import base64
import io

from rmrkd_cli.report.figures.class_maps import Image, Palette, full_palette

_QUALITY = 80


def photograph(image: Image) -> str:
    """Return (H, W, 3) RGB as JPEG."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(image).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return _data_uri(stream.getvalue(), "image/jpeg")


def class_map(classes: Image, palette: Palette) -> str:
    """Return (H, W) classes as PNG. Every class, and 255, has its own colour, from which the script reads it."""
    from PIL import Image as Pillow

    image = Pillow.fromarray(classes)
    image.putpalette(bytes(full_palette(palette).ravel()))
    stream = io.BytesIO()
    image.save(stream, "PNG", optimize=True)
    return _data_uri(stream.getvalue(), "image/png")


def _data_uri(data: bytes, mime_type: str) -> str:
    return f"data:{mime_type};base64,{base64.b64encode(data).decode('ascii')}"
