"""Pictures as bytes that a page can hold."""

from __future__ import annotations

import base64
import io

from rmrkd_cli.report.figures.class_maps import Image, Palette, full_palette

_QUALITY = 80


def data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def photograph(picture: Image) -> str:
    """(H, W, 3), red first, as JPEG."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(picture).save(stream, "JPEG", quality=_QUALITY, optimize=True)
    return data_uri(stream.getvalue(), "image/jpeg")


def class_map(classes: Image, palette: Palette) -> str:
    """(H, W) classes as a PNG of indices, each with a colour of its own to be read from; so has 255."""
    from PIL import Image as Pillow

    picture = Pillow.fromarray(classes)
    picture.putpalette(bytes(full_palette(palette).ravel()))
    stream = io.BytesIO()
    picture.save(stream, "PNG", optimize=True)
    return data_uri(stream.getvalue(), "image/png")
