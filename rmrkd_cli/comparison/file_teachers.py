"""Find how to run a teacher's file that is compared with a student: the student's checkpoint describes it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.presets.schema import Preset


def preset_of_student(file: Path, compared: Sequence[Path]) -> Preset | None:
    """Return the preset of the student that an ONNX or TorchScript file taught, with this file as the teacher.

    Args:
        compared: All files of the comparison; a student of this file is recognised by the file's SHA-256.
    """
    from rmrkd_cli.checkpoints.file_formats import network_file_format
    from rmrkd_cli.checkpoints.reader import read_checkpoint
    from rmrkd_cli.evaluation.checkpoint_network import preset_of
    from rmrkd_cli.results.provenance import provenance
    from rmrkd_cli.storage.cache import sha256_of

    if network_file_format(file) is None:
        return None
    for other in compared:
        student = other.parent / "student.pth" if other.suffix == ".json" else other
        if student == file or not student.is_file() or network_file_format(student) is not None:
            continue
        try:
            checkpoint = read_checkpoint(student, lazy=True)
        except RmrkdError:
            continue
        taught_by = provenance(student, checkpoint.meta.get("sources")).get("taught_by")
        preset = preset_of(checkpoint) if taught_by == sha256_of(file) else None
        if preset is not None and preset.teacher.is_file:
            teacher = preset.teacher.model_copy(update={"file": str(file)})
            return preset.model_copy(update={"teacher": teacher})
    return None
