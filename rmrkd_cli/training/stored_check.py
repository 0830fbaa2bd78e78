"""Check before training that stored teacher outputs belong to the run, and that every image has some."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.folder_listing import missing_names
from rmrkd_cli.data.map_file import SUFFIX
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.sample_table import SampleTable
from rmrkd_cli.data.samples import fingerprint
from rmrkd_cli.data.stored_outputs import MAPS, REFILL, REFILL_OTHERS
from rmrkd_cli.data.unlabelled import find_training_samples
from rmrkd_cli.distillation.teacher import describe_teacher
from rmrkd_cli.distillation.teacher_outputs import check_matches, network_digest, read_index
from rmrkd_cli.errors import CorruptFileError, RmrkdError
from rmrkd_cli.networks.hub import WEIGHT_FILES, cached_hub_file
from rmrkd_cli.presets.schema import Preset, Teacher
from rmrkd_cli.storage.cache import sha256_of


def check_stored_outputs(presets: Sequence[Preset], info: DatasetInfo, samples: SampleTable | None = None) -> None:
    """Check the stored outputs that the distillations among these runs train from.

    The teacher's own file may be missing. If it is on this machine, or the preset has its SHA-256, they are compared.
    The files of the outputs are read in training only.

    Args:
        samples: Those of the distillations; None: they are searched for.

    Raises:
        RmrkdError: They are of another teacher, other classes, another preprocessing, or files are missing.
    """
    teachers = [preset.teacher for preset in presets if preset.role == "distill" and preset.teacher.outputs is not None]
    skips = any(preset.schedule.skip_corrupt for preset in presets)
    for number, teacher in enumerate(teachers):
        if teacher not in teachers[:number]:
            _check(teacher, info, samples if samples is not None else find_training_samples(info, "distill"), skips)


def _check(teacher: Teacher, info: DatasetInfo, samples: SampleTable, skip_corrupt: bool) -> None:
    folder = Path(str(teacher.outputs))
    index = read_index(folder)
    check_matches(
        folder, index, classes=info.classes, scale=info.scale, max_value=info.max_value,
        teacher_sha256=named_sha256(teacher), network=_digest_of_network(teacher, info),
    )  # fmt: skip
    form = index.output_format(folder)
    missing = missing_names(folder / MAPS, SUFFIX, list(samples.names()))
    if skip_corrupt:
        missing = _without_unreadable(missing, info, samples)
    if missing:
        others = fingerprint(samples) != index.fingerprint
        reason = f"; the folder was filled for {index.images} images, others than these" if others else ""
        raise RmrkdError(
            f"{len(missing)} of {len(samples)} stored teacher outputs are missing, the first is "
            f"`{form.path(missing[0])}`{reason}",
            REFILL_OTHERS if others else REFILL,
        )


def _without_unreadable(names: list[str], info: DatasetInfo, samples: SampleTable) -> list[str]:
    """Return the names from the first readable image on: training skips the others, as `cache-teacher` did."""
    if not names:
        return names
    files, numbers = SampleFiles(info, samples), {name: number for number, name in enumerate(samples.names())}
    for place, name in enumerate(names):
        try:
            files.image(numbers[name])
        except CorruptFileError:
            continue
        return names[place:]
    return []


def _digest_of_network(teacher: Teacher, info: DatasetInfo) -> str | None:
    """Return the digest of the description of a preset's teacher.

    None where the preset names no weights for it, or its library or code is not on this machine.
    """
    if not teacher.is_trained:
        return None
    try:
        return network_digest(describe_teacher(teacher, info.num_classes, info))
    except RmrkdError:
        return None


def named_sha256(teacher: Teacher) -> str | None:
    """Return the SHA-256 of the file that a preset names for its teacher, or its first digits; None if it has none."""
    source = teacher.checkpoint
    if source is not None and source.sha256:
        return source.sha256
    path = teacher.file if source is None else source.path
    if source is not None and source.hub is not None:
        path = str(cached_hub_file(source.hub, *WEIGHT_FILES) or "")
    return sha256_of(Path(path)) if path is not None and Path(path).is_file() else None
