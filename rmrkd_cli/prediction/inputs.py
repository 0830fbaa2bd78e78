"""Find the images and videos to predict, and give each a unique name for its output files."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from torch.utils.data import Dataset

from rmrkd_cli.data.deep_image import ValueRange
from rmrkd_cli.data.file_types import IMAGE_SUFFIXES
from rmrkd_cli.data.image_file import ImageFormatError, open_image
from rmrkd_cli.data.image_io import Picture, read_measured_image
from rmrkd_cli.data.transforms import EvalViews, View, pin_views
from rmrkd_cli.errors import CorruptFileError, RmrkdError

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv")
_PAGED_SUFFIXES = (".tif", ".tiff", ".gif", ".webp", ".png")
_UNREAD_SUFFIXES = (
    ".heic", ".heif", ".avif", ".jxl", ".jfif", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".rw2", ".raf", ".psd",
    ".exr", ".hdr", ".tga", ".svg", ".pdf", ".dcm",
)  # fmt: skip
_MAX_LISTED = 6  # names in a message
_SUFFIXES = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)


@dataclass(frozen=True)
class Input:
    """One image or video.

    Attributes:
        name: Prefix of its output files, relative to the output folder.
    """

    path: Path
    name: str
    is_video: bool


@dataclass(frozen=True)
class ImageItem:
    """A decoded image.

    Attributes:
        image: (H, W, 3) uint8, BGR, upright.
        views: As in `EvalItem`.
        index: Position in the list of inputs.
        pages: Number of pages or frames in the file, of which this is the first.
        values: The range of the values of an image beyond 8 bits; None for others.
    """

    image: Picture
    views: list[View]
    index: int
    pages: int = 1
    values: ValueRange | None = None

    def pin_memory(self) -> ImageItem:
        """Return the item with its views in pinned memory; the loader calls this for GPUs."""
        return replace(self, views=pin_views(self.views))


class ImageSet(Dataset[ImageItem]):
    """Images decoded as in training: rotated upright by their EXIF orientation.

    Args:
        max_value: The value of white in images beyond 8 bits.
    """

    def __init__(self, inputs: Sequence[Input], views: EvalViews, max_value: float | None = None) -> None:
        self.inputs, self.views, self.max_value = inputs, views, max_value

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> ImageItem:
        path = self.inputs[index].path
        try:
            image, values = read_measured_image(path, self.max_value)
        except ImageFormatError as error:  # one of many files: it is listed with its fix
            value = error.suggested
            fix = f"such as --max-value {value:.10g}" if value is not None else error.hint
            raise CorruptFileError(f"{error.message}: {fix}", error.hint, str(path)) from error
        if not self.views.can_resize(image):
            raise CorruptFileError(f"`{path}`: {image.shape[1]}x{image.shape[0]} pixels are too thin to be resized")
        return ImageItem(image, self.views(image), index, count_pages(path), values)


def find_inputs(
    paths: Iterable[Path], *, passed_over: list[Path] | None = None, exclude: Path | None = None
) -> list[Input]:
    """Return the given files, and all images and videos below the given folders.

    Args:
        passed_over: Gets the other files in the folders, and symlinked folders.
        exclude: A folder that is not searched.

    Hidden files and symlinked folders are skipped. A file that is found twice counts once. Files that differ only in
    their suffix keep the suffix in their names.

    Raises:
        RmrkdError: A folder contains no image or video, or two output files would have the same name.
    """
    files: dict[str, tuple[Path, PurePosixPath]] = {}
    for start in paths:
        for path, relative in _walk(start, [] if passed_over is None else passed_over, exclude):
            files.setdefault(os.path.realpath(path), (path, relative))
    same_stem: defaultdict[str, int] = defaultdict(int)
    for _, relative in files.values():
        same_stem[_stem(relative).casefold()] += 1
    inputs = [
        Input(
            path,
            name=str(relative) if same_stem[_stem(relative).casefold()] > 1 else _stem(relative),
            is_video=path.suffix.lower() in VIDEO_SUFFIXES,
        )
        for path, relative in files.values()
    ]
    _check_output_names(inputs)
    return inputs


def output_names(item: Input) -> tuple[str, ...]:
    """Return the output files of an input, relative to the output folder and without suffix."""
    if item.is_video:
        return (f"{item.name}-overlay", f"{item.name}-frames")
    return (item.name, f"{item.name}-overlay")


def count_pages(path: Path) -> int:
    """Return the number of pages or frames in an image file of which only the first is read; 1 where unknown."""
    if path.suffix.lower() not in _PAGED_SUFFIXES:
        return 1
    try:
        with path.open("rb") as file, open_image(file) as image:
            return int(getattr(image, "n_frames", 1))
    except Exception:  # Pillow raises any kind of exception for a damaged file; reading it says what is wrong
        return 1


def _walk(start: Path, passed_over: list[Path], exclude: Path | None) -> Iterator[tuple[Path, PurePosixPath]]:
    """Yield (path, path relative to `start`) of a file, or of the images and videos below a folder."""
    if not start.is_dir():  # a missing file is reported when it is read
        yield start, PurePosixPath(start.name)
        return
    count, others = 0, []
    for folder, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        folders[:] = [name for name in folders if exclude is None or not _is_same(Path(folder, name), exclude)]
        others += [Path(folder, name) for name in folders if os.path.islink(Path(folder, name))]
        for name in sorted(name for name in files if not name.startswith(".")):
            path = Path(folder, name)
            if name.lower().endswith(_SUFFIXES):
                count += 1
                yield path, PurePosixPath(path.relative_to(start).as_posix())
            else:
                others.append(path)
    passed_over += others
    if not count:
        found = f", only {list_paths(others)}" if others else ""
        hint = f"supported suffixes: {' '.join(_SUFFIXES)}"
        raise RmrkdError(f"`{start}` contains no image or video{found}", hint + convert_hint(others))


def list_paths(paths: Sequence[Path]) -> str:
    """Return the first names of files, and how many more there are."""
    more = f" and {len(paths) - _MAX_LISTED} more" if len(paths) > _MAX_LISTED else ""
    return ", ".join(f"`{path}`" for path in paths[:_MAX_LISTED]) + more


def convert_hint(paths: Iterable[Path]) -> str:
    """Return how to convert images of other formats, or an empty string where there are none."""
    suffixes = {path.suffix.lower() for path in paths} & set(_UNREAD_SUFFIXES)
    return f"; convert {', '.join(sorted(suffixes))} files to JPEG or PNG: magick IN OUT.jpg" if suffixes else ""


def _is_same(path: Path, other: Path) -> bool:
    return path.exists() and other.exists() and path.samefile(other)


def _stem(relative: PurePosixPath) -> str:
    return str(relative.with_suffix("") if relative.suffix.lower() in _SUFFIXES else relative)


def _check_output_names(inputs: Iterable[Input]) -> None:
    """Raise RmrkdError if two outputs have the same name; upper and lower case count as equal, as on some disks."""
    owners: dict[str, Path] = {"legend": Path("legend.png")}
    for item in inputs:
        for name in output_names(item):
            other = owners.setdefault(name.casefold(), item.path)
            if other != item.path:
                raise RmrkdError(
                    f"`{item.path}` and `{other}` would both be written as `{name}`",
                    "pass the folder that contains both, or run the command once for each",
                )
