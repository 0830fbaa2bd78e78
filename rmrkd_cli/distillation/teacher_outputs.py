"""The index of a folder of stored teacher outputs: which teacher, preprocessing, classes and images they are of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from rmrkd_cli.data.map_file import MAX_CLASSES
from rmrkd_cli.data.stored_outputs import OutputFormat
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.feature_maps import FeatureShapes
from rmrkd_cli.storage.regular_file import error_reason, read_regular

INDEX = "index.json"
MAX_INDEX_BYTES = 1 << 24
_NEW_FOLDER = "choose another folder with --out DIR"
_DESCRIPTION = "teacher's description (its network, or the `input`, `output` and `classes` of a file)"
_ABOUT_IMAGES = {"identity", "dataset", "images", "fingerprint", "miou", "measured", "versions"}  # not of the identity


class TeacherFile(BaseModel):
    """One of the teachers.

    Attributes:
        preset: Its name.
        network: SHA-256 of the description of its network.
        sha256: Of the file of its weights.
        source: Path or address of that file.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: str
    network: str
    sha256: str
    source: str


class OutputsIndex(BaseModel):
    """The contents of `index.json`.

    Attributes:
        identity: Hash of the fields that the outputs depend on; each file has it too.
        scale: (width, height) that the images were fitted into.
        max_value: The value of white in images beyond 8 bits.
        scales: Factors on `scale` whose probabilities are averaged.
        flip: Averaged with the mirrored image.
        values: What the files have; averages and `top_k` need probabilities.
        top_k: Classes that are stored of each position; None: all.
        stride: Pixels between two positions.
        align_corners: How the first teacher's logits are resized.
        fingerprint: Of the names of the images for which the folder was last filled.
        miou: On `measured` validation images, 0 to 1.
        measured: Counted images, and all of the split.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal["rmrkd-teacher-outputs-1"] = "rmrkd-teacher-outputs-1"
    identity: str = ""
    teachers: tuple[TeacherFile, ...]
    dataset: str
    classes: tuple[str, ...]
    scale: tuple[int, int]
    max_value: float | None
    scales: tuple[float, ...]
    flip: bool
    values: Literal["logits", "log-probabilities"]
    top_k: int | None
    stride: int
    align_corners: bool
    images: int
    fingerprint: str
    miou: float | None = None
    measured: tuple[int, int] = (0, 0)
    versions: dict[str, str] = {}

    def identified(self) -> OutputsIndex:
        """Return the index with its identity."""
        return self.model_copy(update={"identity": _identity(self)})

    def output_format(self, folder: Path) -> OutputFormat:
        """Return what all files of the folder have in common."""
        return OutputFormat(str(folder), self.identity, len(self.classes), self.top_k, self.align_corners, self.stride)

    def shapes(self) -> FeatureShapes:
        """Return the shapes of the teacher's maps, of which only the logits are stored."""
        return FeatureShapes({"logits": len(self.classes)}, {"logits": self.stride})

    def source(self, folder: Path) -> dict[str, str]:
        """Return where the teacher of a run comes from, for `meta.sources` of its checkpoints."""
        digests = [teacher.sha256 for teacher in self.teachers]
        sha256 = digests[0] if len(digests) == 1 else hashlib.sha256("\n".join(digests).encode()).hexdigest()
        return {"source": str(folder), "sha256": sha256, "outputs": self.identity}

    def describe(self) -> str:
        """Return what was averaged, and what is stored, in words."""
        several = len(self.teachers) > 1 or len(self.scales) > 1 or self.flip
        parts = [f"{len(self.teachers)} teachers"] if len(self.teachers) > 1 else []
        parts += [f"scales {', '.join(f'{scale:g}' for scale in self.scales)}"] if self.scales != (1.0,) else []
        parts += ["mirrored images"] if self.flip else []
        stored = self.values if self.top_k is None else f"the {self.top_k} largest of {len(self.classes)} classes"
        return f"{stored}, averaged over {' and '.join(parts)}" if several else stored


def read_index(folder: Path) -> OutputsIndex:
    """Return the index of a folder.

    Raises:
        RmrkdError: There is none, or it was changed.
    """
    path = folder / INDEX
    make = "make one with `rmrkd cache-teacher --preset P --out DIR`"
    if not path.is_file():
        what = f"has no `{INDEX}`" if folder.is_dir() else "does not exist"
        raise RmrkdError(f"`{folder}` is no folder of stored teacher outputs: it {what}", make)
    try:
        index = OutputsIndex.model_validate_json(read_regular(path, MAX_INDEX_BYTES))
    except OSError as error:
        raise RmrkdError(f"`{path}` cannot be read: {error_reason(error)}", make) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise RmrkdError(f"`{path}` is damaged, or of another version: {where}: {first['msg']}", make) from error
    if index.identity != _identity(index) or not _is_usable(index):
        raise RmrkdError(f"`{path}` was changed: its contents do not have the identity that is stored in it", make)
    return index


def check_same_outputs(folder: Path, existing: OutputsIndex, wanted: OutputsIndex) -> None:
    """Check that a folder can be filled further.

    Raises:
        RmrkdError: It holds outputs of another teacher or preprocessing; the message lists what differs.
    """
    if differences := _differences(existing, wanted):
        raise RmrkdError(f"`{folder}` holds other teacher outputs:" + "".join(differences), _NEW_FOLDER)


def check_matches(
    folder: Path,
    index: OutputsIndex,
    *,
    classes: Sequence[str],
    scale: tuple[int, int],
    max_value: float | None,
    teacher_sha256: str | None,
    network: str | None,
) -> None:
    """Check that stored outputs belong to what is trained.

    Args:
        classes, scale, max_value: Of the data set of the run.
        teacher_sha256: Of the teacher's file that the preset names, or its first digits; None where it names none.
        network: `network_digest` of a teacher whose weights the preset names; None where it is not known.

    Raises:
        RmrkdError: Another teacher, other classes or another preprocessing; the message lists what differs.
    """
    lines = []
    if tuple(classes) != index.classes:
        lines.append(_line("classes", _names(index.classes), _names(classes)))
    if tuple(scale) != index.scale:
        lines.append(_line("size that images are fitted into", _size(index.scale), _size(scale)))
    if max_value != index.max_value:
        lines.append(_line("data.max_value", index.max_value, max_value))
    named = [one for one in index.teachers if one.sha256.startswith(teacher_sha256 or "")]
    if not named:
        stored = " and ".join(f"{one.sha256[:12]} ({one.source})" for one in index.teachers)
        lines.append(_line("SHA-256 of the teacher", stored, str(teacher_sha256)[:12]))
    elif not lines and network is not None and network not in {one.network for one in named}:
        stored = " and ".join(one.network[:12] for one in named)
        lines.append(_line(f"SHA-256 of the {_DESCRIPTION}", stored, str(network)[:12]))
    if lines:
        raise RmrkdError(
            f"the stored teacher outputs in `{folder}` do not belong to this preset:" + "".join(lines),
            "store them for this preset with `rmrkd cache-teacher --preset P --out DIR`, or train without "
            "--teacher-outputs",
        )


def network_digest(config: object) -> str:
    """Return the SHA-256 of the description of a network."""
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _identity(index: OutputsIndex) -> str:
    facts = index.model_dump(mode="json", exclude=_ABOUT_IMAGES)
    facts["teachers"] = [[teacher["network"], teacher["sha256"]] for teacher in facts["teachers"]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def _is_usable(index: OutputsIndex) -> bool:
    count = len(index.classes)
    return 1 < count <= MAX_CLASSES and index.stride > 0 and (index.top_k is None or 0 < index.top_k < count)


def _differences(existing: OutputsIndex, wanted: OutputsIndex) -> list[str]:
    before, now = _readable(existing), _readable(wanted)
    return [_line(name, before[name], now[name], "in the folder") for name in now if before[name] != now[name]]


def _readable(index: OutputsIndex) -> dict[str, Any]:
    return {
        "teacher": ", ".join(f"{one.preset} ({one.sha256[:12]}, network {one.network[:8]})" for one in index.teachers),
        "classes": _names(index.classes),
        "size that images are fitted into": _size(index.scale),
        "data.max_value": index.max_value,
        "--scales": ",".join(f"{scale:g}" for scale in index.scales),
        "--flip": "yes" if index.flip else "no",
        "--top-k": index.top_k or "all",
        "stride": index.stride,
        "align_corners": index.align_corners,
    }


def _line(name: str, stored: object, wanted: object, where: str = "stored") -> str:
    return f"\n  {name}: {stored} {where}, {wanted} now"


def _names(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:4])
    return f"{len(classes)} ({shown}{', …' if len(classes) > 4 else ''})"


def _size(scale: Sequence[int]) -> str:
    return "x".join(map(str, scale))
