"""Videos, read and written by OpenCV's own ffmpeg.

Its wheel decodes what ffmpeg decodes (H.264, H.265, VP8, VP9, AV1, MPEG-4, MJPEG, …) and encodes VP9, VP8, MPEG-4 and
MJPEG, but neither H.264 nor AV1. Overlays are VP9 in an MP4 file, which browsers play.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rmrkd_cli.data.image_io import MOST_DECODED_PIXELS, Picture, is_readable_name
from rmrkd_cli.errors import CorruptError, RunError
from rmrkd_cli.storage.atomic import sync_folder
from rmrkd_cli.storage.regular_file import opened, why

SUFFIX = ".mp4"
_CODECS = ("vp09", "mp4v")  # the second where a build of OpenCV lacks the first
_START = 189  # bytes by which a container is known; MPEG's transport stream has a mark every 188
_MOST_RATE = 1000.0  # frames a second
_REPLACE = "convert it: ffmpeg -i IN -c:v libx264 OUT.mp4"


@dataclass(frozen=True)
class Clip:
    """A video's own words of itself; `frames` is 0 where it does not say."""

    rate: float
    frames: int


class VideoReader:
    """The frames of a video file, (H, W, 3) uint8, blue first, upright, each of the first one's size."""

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
            CorruptError: When it is no video that OpenCV's ffmpeg reads, or a frame is too large.
        """
        import cv2

        _check_container(path)
        if not is_readable_name(path.absolute()):
            raise CorruptError(f"`{path}`: the name of a video must be UTF-8", "rename it", str(path))
        os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "protocol_whitelist;file")
        os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        self.path = path
        self._capture: Any = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
        if not self._capture.isOpened():
            raise _corrupt(path, "it has no picture stream that this OpenCV decodes")
        width, height = (self._capture.get(value) for value in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
        if not 0 < width * height <= MOST_DECODED_PIXELS:
            raise _corrupt(path, f"its frames are {width:.0f}x{height:.0f} pixels")
        rate, frames = self._capture.get(cv2.CAP_PROP_FPS), self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if not 0 < rate <= _MOST_RATE:
            raise _corrupt(path, f"it says {rate:g} frames a second")
        self.clip = Clip(float(rate), int(frames) if math.isfinite(frames) and 0 < frames < 1e9 else 0)

    def __iter__(self) -> Iterator[Picture]:
        size: tuple[int, ...] | None = None
        while True:
            read, frame = self._capture.read()
            if not read:
                break
            if size is not None and frame.shape != size:
                raise _corrupt(self.path, f"the size of its frames changes, from {size[:2]} to {frame.shape[:2]}")
            size = frame.shape
            yield frame
        if size is None:
            raise _corrupt(self.path, "not one of its frames can be decoded")

    def close(self) -> None:
        self._capture.release()


class VideoWriter:
    """Frames (H, W, 3) uint8, red first, into a file that gets its name when all are there."""

    def __init__(self, partial: Path, rate: float) -> None:
        self.partial, self.rate = partial, rate
        self.count = 0
        self._writer: Any = None

    def add(self, frame: Picture) -> None:
        """Raises RunError where no codec takes frames of this size."""
        import cv2

        if self._writer is None:
            self._writer = self._opened(frame.shape[1], frame.shape[0])
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
        self.count += 1

    def finish(self) -> None:
        if self._writer is not None:
            self._writer.release()
            self._writer = None

    def _opened(self, width: int, height: int) -> Any:
        import cv2

        for codec in _CODECS:
            writer = cv2.VideoWriter(
                str(self.partial.absolute()), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), self.rate, (width, height)
            )
            if writer.isOpened():
                return writer
        raise RunError(
            f"this OpenCV writes no video of {width}x{height} pixels as {' or '.join(_CODECS)}",
            "take its frames out, and give the folder",
        )


@contextmanager
def new_video(path: Path, rate: float) -> Iterator[VideoWriter]:
    """A video that is there when all of it is, and not at all where an error or a signal came before.

    Raises:
        RunError: When it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=f".partial{SUFFIX}")
    os.close(handle)
    partial = Path(name)
    writer = VideoWriter(partial, rate)
    try:
        yield writer
        writer.finish()
        with partial.open("rb+") as stream:
            if stream.seek(0, 2) == 0:
                raise RunError(f"cannot write `{path}`: nothing of it reached the disk", "is the disk full?")
            os.fsync(stream.fileno())
        if writer.count != _frames_in(partial):  # OpenCV does not say that it could not write
            raise RunError(f"cannot write `{path}`: not all of it reached the disk", "is the disk full?")
        partial.chmod(0o644)
        os.replace(partial, path)
        sync_folder(path.parent)
    finally:
        writer.finish()
        partial.unlink(missing_ok=True)


def _frames_in(path: Path) -> int:
    """As many as the file's own table names, which is written last; 0 where there is none."""
    import cv2

    capture = cv2.VideoCapture(str(path.absolute()), cv2.CAP_FFMPEG)
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()


def _check_container(path: Path) -> None:
    """By its first bytes: ffmpeg also takes play lists, which name other files and addresses."""
    try:
        with opened(path) as stream:
            start = stream.read(_START) or b""
    except OSError as error:
        raise _corrupt(path, why(error)) from error
    known = (
        start[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")
        or start.startswith((b"\x1a\x45\xdf\xa3", b"FLV\x01", b"OggS", b"\0\0\x01\xba", b"\0\0\x01\xb3"))
        or (start[:4] == b"RIFF" and start[8:11] == b"AVI")
        or start[::188] == b"GG"
    )
    if not start:
        raise _corrupt(path, "the file is empty")
    if not known:
        raise _corrupt(path, "it does not begin as MP4, MOV, MKV, WebM, AVI, MPEG, FLV or Ogg files do")


def _corrupt(path: Path, told: str) -> CorruptError:
    return CorruptError(f"`{path}` cannot be read as a video: {told}", _REPLACE, str(path))
