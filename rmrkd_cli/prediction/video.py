"""Read and write videos with the ffmpeg in OpenCV.

OpenCV's wheel decodes what ffmpeg decodes (H.264, H.265, VP8, VP9, AV1, MPEG-4, MJPEG, …). It encodes VP9, VP8, MPEG-4
and MJPEG, but not H.264 and AV1. Overlays are VP9 in an MP4 file, which browsers play.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmrkd_cli.data.image_io import MAX_PIXELS, Picture, is_utf8_path
from rmrkd_cli.errors import CorruptFileError, RunError
from rmrkd_cli.storage.atomic import PARTIAL, atomic_path
from rmrkd_cli.storage.regular_file import error_reason, open_regular

SUFFIX = ".mp4"
_CODECS = ("vp09", "mp4v")  # mp4v for builds of OpenCV without VP9
_HEADER_BYTES = 189  # an MPEG transport stream has a sync byte every 188 bytes
_MAX_RATE = 1000.0  # frames per second
_CONVERT_HINT = "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True)
class VideoInfo:
    """The metadata of a video: frames per second, and the number of frames (0 if unknown)."""

    rate: float
    frames: int


class VideoReader:
    """Iterates over the frames of a video: (H, W, 3) uint8, BGR, upright, all of one size."""

    def __init__(self, path: Path) -> None:
        """Open a video file.

        Raises:
            CorruptFileError: OpenCV cannot read the file as a video, or its frames are too large.
        """
        import cv2

        _check_container(path)
        if not is_utf8_path(path.absolute()):
            raise CorruptFileError(f"`{path}`: the file name of a video must be UTF-8", "rename the file", str(path))
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.path = path
        self._capture: Any = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise _corrupt(path, "OpenCV finds no video stream that it can decode")
        width, height = (self._capture.get(value) for value in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not 0 < width * height <= MAX_PIXELS:
            raise _corrupt(path, f"unsupported frame size {width:.0f}x{height:.0f}")
        rate, frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not 0 < rate <= _MAX_RATE:
            raise _corrupt(path, f"unsupported frame rate {rate:g}")
        self.info = VideoInfo(float(rate), int(frames) if math.isfinite(frames) and 0 < frames < 1e9 else 0)

    def __iter__(self) -> Iterator[Picture]:
        size: tuple[int, ...] | None = None
        while True:
            read, frame = self._capture.read()
            if not read:
                break
            if size is not None and frame.shape != size:
                raise _corrupt(self.path, f"the frame size changes from {size[:2]} to {frame.shape[:2]}")
            size = frame.shape
            yield frame
        if size is None:
            raise _corrupt(self.path, "no frame can be decoded")

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Writes frames (H, W, 3) uint8, RGB, to a video file; see `new_video`."""

    def __init__(self, partial: Path, rate: float) -> None:
        self.partial, self.rate = partial, rate
        self.count = 0
        self._writer: Any = None

    def add(self, frame: Picture) -> None:
        """Append a frame. Raises RunError if no codec supports its size."""
        import cv2

        if self._writer is None:
            self._writer = self._open_writer(frame.shape[1], frame.shape[0])
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _open_writer(self, width: int, height: int) -> Any:
        import cv2

        for codec in _CODECS:
            writer = cv2.VideoWriter(
                str(self.partial.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.rate, (width, height)
            )
            if writer.isOpened():
                return writer
        raise RunError(
            f"OpenCV cannot write a video of {width}x{height} pixels as {' or '.join(_CODECS)}",
            "extract the frames (ffmpeg -i IN DIR/%06d.png) and pass their folder",
        )


@contextmanager
def new_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """Yield a writer; the file gets its name when the block ends without an error, and is deleted otherwise.

    Raises:
        RunError: The video cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path, suffix=f"{PARTIAL}{SUFFIX}") as partial:
        writer = VideoWriter(partial, rate)
        try:
            yield writer
        finally:
            writer.finish()
        if partial.stat().st_size == 0:
            raise RunError(f"cannot write `{path}`: the file is empty", "check the free space on the disk")
        if writer.count != _frames_in(partial):  # OpenCV does not report write errors
            raise RunError(f"cannot write `{path}`: the file is incomplete", "check the free space on the disk")


def _frames_in(path: Path) -> int:
    """Return the number of frames in the index of the file, which is written last; 0 without an index."""
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()


def _check_container(path: Path) -> None:
    """Raise CorruptError unless the first bytes are those of a video file.

    ffmpeg would also open playlists, which can name other files and URLs.
    """
    try:
        with open_regular(path) as stream:
            header = stream.read(_HEADER_BYTES) or b""
    except OSError as error:
        raise _corrupt(path, error_reason(error)) from error
    known = (
        header[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        or header.startswith((b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3"))
        or (header[:4] == b"RIFF" and header[8:11] == b"AVI")
        or header[::188] == b"GG"
    )
    if not header:
        raise _corrupt(path, "the file is empty")
    if not known:
        raise _corrupt(path, "it is not an MP4, MOV, MKV, WebM, AVI, MPEG, FLV or Ogg file")


def _corrupt(path: Path, problem: str) -> CorruptFileError:
    return CorruptFileError(f"`{path}` cannot be read as a video: {problem}", _CONVERT_HINT, str(path))
