"""Recognize image files by their first bytes: types that are not read, and those that change the values they store."""

from __future__ import annotations

from collections.abc import Iterator

from rmrkd_cli.data.tiff_header import is_tiff, read_tiff_header

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
)  # fmt: skip
_BRANDS = {b"avif": "AVIF", b"avis": "AVIF", **dict.fromkeys((b"heic", b"heix", b"hevc", b"mif1", b"msf1"), "HEIC")}
_SIGNATURES = (
    (b"\xff\x0a", "JPEG XL"), (b"\0\0\0\x0cJXL ", "JPEG XL"), (b"\x76\x2f\x31\x01", "OpenEXR"), (b"#?RADIANCE", "HDR"),
    (b"8BPS", "PSD"), (b"%PDF", "PDF"), (b"\x93NUMPY", "NumPy"), (b"PF\n", "PFM"), (b"Pf\n", "PFM"),
    (b"DDS ", "DDS"), (b"qoif", "QOI"), (b"\0\0\x01\0", "ICO"),
)  # fmt: skip
_LOSSY_TYPES = ("AVIF", "HEIC", "JPEG XL")  # or at least not known to be lossless
_TIFF_COMPRESSIONS = {
    **dict.fromkeys((6, 7, 34892), "JPEG"), **dict.fromkeys((33003, 33004, 33005, 34712), "JPEG 2000"),
    50001: "WebP", 50002: "JPEG XL", 52546: "JPEG XL", 34887: "LERC",
}  # fmt: skip


def foreign_type(data: bytes) -> str:
    """Return the type of a file that is a picture, or close to one, and is not read; or an empty text."""
    if data[4:8] == b"ftyp":
        return next((name for brand, name in _BRANDS.items() if brand in data[8:64]), "")
    if data[128:132] == b"DICM":
        return "DICOM"
    return next((name for signature, name in _SIGNATURES if data.startswith(signature)), "")


def lossy_type(data: bytes) -> str:
    """Return the type of a file whose compression changes values, or is not known to keep them; or an empty text.

    JPEG 2000 counts as such: its files do not tell whether a part of the values was left out.
    """
    if data.startswith(b"\xff\xd8"):
        return "JPEG"
    if data[:4] == b"\xff\x4f\xff\x51" or data[4:8] == b"jP  ":
        return "JPEG 2000"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "lossy WebP" if b"VP8 " in _webp_chunks(data, 12) else ""
    if is_tiff(data):
        header = read_tiff_header(data)
        compression = _TIFF_COMPRESSIONS.get(header.compression, "") if header is not None else ""
        return f"TIFF with {compression} compression" if compression else ""
    foreign = foreign_type(data)
    return foreign if foreign in _LOSSY_TYPES else ""


def _webp_chunks(data: bytes, place: int) -> Iterator[bytes]:
    """Yield the names of the chunks of a WebP file, and of those in the frames of an animation."""
    while place + 8 <= len(data):
        name, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        yield name
        place += 8 + (16 if name == b"ANMF" else size + size % 2)
