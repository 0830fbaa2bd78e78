"""The images whose teacher outputs are still to be stored, and the disk space that the outputs take."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from rmrkd_cli.data.image_io import header_size
from rmrkd_cli.data.map_file import MapFileError, image_signature, map_bytes
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.data.source_file import file_bytes
from rmrkd_cli.data.stored_outputs import MAPS, OutputFormat
from rmrkd_cli.data.transforms import EvalItem, EvalViews
from rmrkd_cli.errors import CorruptFileError
from rmrkd_cli.storage.resources import require_space
from rmrkd_cli.training.caching.ensemble import TeacherEnsemble

_MEASURED = 1000  # images whose headers are read to estimate the disk space
SIGNATURE, BYTES = "signature", "image_bytes"  # in the metadata of a view


class PendingImages(Dataset[Any]):
    """Views of training images by index; the index itself where the outputs are stored, an error if skipped.

    Args:
        skip_corrupt: Return the error of an unreadable image instead of raising it.
    """

    def __init__(self, files: SampleFiles, views: EvalViews, form: OutputFormat, *, skip_corrupt: bool) -> None:
        self.files, self.views, self.form, self.skip_corrupt = files, views, form, skip_corrupt

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> EvalItem | int | str:
        sample = self.files.samples[index]
        if is_stored(self.form, sample):
            return index
        try:
            image = self.files.image(index)
        except CorruptFileError as error:
            if not self.skip_corrupt:
                raise
            return error.message
        views = self.views(image)
        views[0][1].update({SIGNATURE: image_signature(image), BYTES: _file_bytes(sample)})
        return EvalItem(views, None, index)


def is_stored(form: OutputFormat, sample: Sample) -> bool:
    """Return whether a sample has a valid file, made from an image file of the same size."""
    try:
        return form.read(sample.name).image_bytes == _file_bytes(sample)
    except MapFileError:
        return False


def check_space(
    folder: Path, views: EvalViews, samples: Sequence[Sample], ensemble: TeacherEnsemble, top_k: int | None
) -> str:
    """Return the line that says how much disk space the outputs of all samples take.

    Raises:
        RmrkdError: They do not fit.
    """
    classes = ensemble.num_classes
    chosen = samples[:: max(1, len(samples) // _MEASURED)]
    sizes = [_map_bytes(sample, views, ensemble, top_k) for sample in chosen]
    known = [size for size in sizes if size]
    needed = round(sum(known) / max(len(known), 1) * len(samples))
    used = _used_bytes(folder / MAPS)
    free = shutil.disk_usage(folder).free
    fewer = "" if top_k is not None or classes < 20 else f"--top-k 10 stores the 10 largest of {classes} classes; or "
    hint = f"{fewer}give a folder on a larger disk with --out DIR"
    require_space(f"{len(samples)} teacher outputs", max(needed - used, 0), free, f"`{folder}`", hint)
    stored = f", {used / 1e9:.2f} GB of it stored" if used else ""
    each = needed / max(len(samples), 1) / 1e6
    return (
        f"{len(samples)} images take about {needed / 1e9:.2f} GB ({each:.2f} MB each) in `{folder}`{stored}; "
        f"{free / 1e9:.2f} GB are free"
    )


def _map_bytes(sample: Sample, views: EvalViews, ensemble: TeacherEnsemble, top_k: int | None) -> int:
    """Return the size of a sample's file, from the header of its image; 0 if that cannot be read."""
    try:
        size = header_size(sample.image)
    except CorruptFileError:
        return 0
    fitted = views.fitted_size((size.height, size.width), ensemble.reference)
    return map_bytes(ensemble.num_classes, ensemble.map_size(fitted), top_k)


def _used_bytes(folder: Path) -> int:
    used = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # another process has just renamed it
                used += os.stat(os.path.join(root, name)).st_blocks * 512
    return used


def _file_bytes(sample: Sample) -> int:
    """Return the size of an image file; 0 where it is missing."""
    try:
        return file_bytes(sample.image)
    except OSError:
        return 0
