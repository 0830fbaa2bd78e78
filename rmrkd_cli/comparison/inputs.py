"""The inputs of a comparison: the record of each file, evaluated or read, and the latency of its network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.comparison.file_teachers import preset_of_student
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record

_MAX_TIMED_PIXELS = 1 << 24  # of an image size that only a result file names


@dataclass(frozen=True)
class ComparedFile:
    """A checkpoint or result file, its record, and the checkpoint of its network where that is available.

    Attributes:
        preset: Of the student that was taught by the file, where that is compared too and describes the file.
    """

    path: Path
    record: Record
    checkpoint: Path | None
    preset: Preset | None = None

    @property
    def is_result(self) -> bool:
        return self.path.suffix == ".json"


def load_compared_files(files: Sequence[Path], options: dict[str, Any], cluster: Cluster) -> list[ComparedFile]:
    """Evaluate the checkpoints and read the result files.

    Args:
        options: Of the evaluation.

    Raises:
        RmrkdError: If a file is neither, or the protocols differ.
    """
    from rmrkd_cli.comparison.groups import mark_teachers
    from rmrkd_cli.comparison.protocol import check_same_protocol
    from rmrkd_cli.evaluation.run import evaluate_files
    from rmrkd_cli.results.record import read_records

    read = {file: read_records(file) for file in files if file.suffix == ".json"}  # before the long evaluations
    count = sum(len(read.get(file, [file])) for file in files)
    if count < 2:
        raise RmrkdError(f"a comparison needs two or more results, got {count}", "rmrkd compare FILE FILE")
    if read:
        check_same_protocol([record for records in read.values() for record in records])
    compared: list[ComparedFile] = []
    for file in files:
        described = options.get("preset") is not None or options.get("file_input") is not None
        preset = None if described else preset_of_student(file, files)
        own = options if preset is None else {**options, "preset": preset.model_dump(mode="json")}
        records = read[file] if file in read else evaluate_files([file], cluster, **own)
        if file not in read and compared:
            check_same_protocol([compared[0].record, *records])
        for record in records:
            checkpoint = _checkpoint_of(file, record)
            if checkpoint is not None:
                record["checkpoint_bytes"] = checkpoint.stat().st_size
            compared.append(ComparedFile(file, record, checkpoint, preset))
    records = [one.record for one in compared]
    check_same_protocol(records)
    mark_teachers(records)
    return compared


def add_latencies(compared: Sequence[ComparedFile], given: Any, device: str, **options: Any) -> None:
    """Measure the latency of one network of each group, in turns on the same machine, and add it to the records.

    Args:
        given: The preset of the evaluation.
        options: Of `load_checkpoint_network`.
    """
    import torch

    from rmrkd_cli.comparison.groups import group_records
    from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
    from rmrkd_cli.evaluation.latency import measure_latencies
    from rmrkd_cli.terminal.messages import log
    from rmrkd_cli.terminal.text import plural

    width, height = compared[0].record["protocol"]["scale"]
    by_record = {id(one.record): one for one in compared}
    timed, networks = [], []
    for one in compared:
        one.record.pop("latency", None)  # it may be of another machine
    for group in group_records([one.record for one in compared]):
        one = by_record[id(group.records[0])]
        if one.checkpoint is None or (one.is_result and width * height > _MAX_TIMED_PIXELS):
            continue
        try:
            loaded = load_checkpoint_network(str(one.checkpoint), one.preset or given, device, **options)
        except RmrkdError:
            if one.is_result:  # its numbers need no network
                continue
            raise
        networks.append(loaded.network)
        timed.append(one.record)
    if timed:
        log(f"measuring the latency of {plural(len(timed), 'network')} at {width}x{height}")
    for record, latency in zip(timed, measure_latencies(networks, (width, height), torch.device(device)), strict=True):
        record["latency"] = latency


def _checkpoint_of(file: Path, record: Record) -> Path | None:
    """Return the checkpoint: the file itself, or for a result file its checkpoint in the same folder.

    A result file may come from anyone, so no other path that it names is opened.
    """
    from rmrkd_cli.storage.cache import sha256_of

    if file.suffix != ".json":
        return file
    if not record.get("checkpoint"):
        return None
    named = Path(record["checkpoint"])
    beside = file.parent / named.name
    try:
        if not beside.is_file() or (named.exists() and not named.samefile(beside)):
            return None
        if record.get("checkpoint_sha256") not in (None, sha256_of(beside)):  # written by a later training
            return None
    except (OSError, ValueError):
        return None
    return beside
