"""Images and videos of anyone's, found below folders, each with a name of its own for what is made of it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from torch.utils.data import Dataset

from rmrkd_cli.data.image_io import Picture, read_image
from rmrkd_cli.data.transforms import EvalViews, View
from rmrkd_cli.errors import CorruptError, RmrkdError

IMAGE_SUFFIXES = (
    ".png", ".jpg", ".jpeg", ".jpe", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm", ".pgm", ".pnm", ".jp2",
)  # fmt: skip
VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".ogv")


@dataclass(frozen=True)
class Input:
    """One image or video, and the name that its results begin with, relative to their folder."""

    path: Path
    name: str
    is_video: bool


@dataclass(frozen=True)
class PictureItem:
    """image: (H, W, 3) uint8, blue first, upright; views: as `EvalItem` has them; index: into the inputs."""

    image: Picture
    views: list[View]
    index: int


class PictureSet(Dataset[PictureItem]):
    """Images decoded as training decodes them: turned upright where their EXIF data says so."""

    def __init__(self, inputs: Sequence[Input], views: EvalViews) -> None:
        self.inputs, self.views = inputs, views

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> PictureItem:
        path = self.inputs[index].path
        image = read_image(path)
        if not self.views.can_show(image):
            raise CorruptError(f"`{path}`: {image.shape[1]}x{image.shape[0]} pixels are too thin to be resized")
        return PictureItem(image, self.views(image), index)


def find_inputs(given: Iterable[Path]) -> list[Input]:
    """Files as they are named, and below folders all whose names end as those of images and videos do.

    Two files of one name and different suffixes keep their suffixes in it. Hidden files and linked folders are passed
    over, and a file that is met twice counts once.

    Raises:
        RmrkdError: When a folder holds none, or two of them would get the same name.
    """
    found: dict[str, tuple[Path, PurePosixPath]] = {}
    for start in given:
        for path, place in _below(start):
            found.setdefault(os.path.realpath(path), (path, place))
    pairs = list(found.values())
    sharing: defaultdict[str, int] = defaultdict(int)
    for _, place in pairs:
        sharing[_stem(place).casefold()] += 1
    inputs = [
        Input(path, str(place) if sharing[_stem(place).casefold()] > 1 else _stem(place), _is_video(path))
        for path, place in pairs
    ]
    _check_names(inputs)
    return inputs


def results_of(item: Input) -> tuple[str, ...]:
    """All that may be written for it, relative to the folder; without suffix where that is chosen later."""
    if item.is_video:
        return (f"{item.name}-overlay", f"{item.name}-frames")
    return (item.name, f"{item.name}-overlay")


def _below(start: Path) -> Iterator[tuple[Path, PurePosixPath]]:
    if not start.is_dir():  # what is not there is met when it is read
        yield start, PurePosixPath(start.name)
        return
    count = 0
    for folder, folders, files in os.walk(start):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and name.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)):
                path = Path(folder, name)
                count += 1
                yield path, PurePosixPath(path.relative_to(start).as_posix())
    if not count:
        raise RmrkdError(
            f"`{start}` holds no image and no video", f"they end with {' '.join((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))}"
        )


def _stem(place: PurePosixPath) -> str:
    return str(place.with_suffix("")) if place.suffix.lower() in (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES) else str(place)


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def _check_names(inputs: Iterable[Input]) -> None:
    """File systems may take capitals and small letters for the same."""
    owners: dict[str, Path] = {"legend": Path("legend.png")}
    for item in inputs:
        for result in results_of(item):
            other = owners.setdefault(result.casefold(), item.path)
            if other != item.path:
                raise RmrkdError(
                    f"`{item.path}` and `{other}` would both be written as `{result}`",
                    "name the folder above them, which keeps them apart, or give the command for each alone",
                )
