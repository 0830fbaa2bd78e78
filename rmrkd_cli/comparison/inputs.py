"""What a comparison compares: the record of each file, measured or read, and what its network costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.results.record import Record

_TIMED_PIXELS = 1 << 24  # of a size that only a result file says


@dataclass(frozen=True)
class ComparedFile:
    """A file that was named, its record, and the checkpoint of its network where that is there."""

    path: Path
    record: Record
    checkpoint: Path | None

    @property
    def is_result(self) -> bool:
        return self.path.suffix == ".json"


def compared_files(files: Sequence[Path], options: dict[str, Any], cluster: Cluster) -> list[ComparedFile]:
    """Checkpoints are measured, result files read; none of them may differ in how it was measured.

    Args:
        options: Of the evaluation's job.

    Raises:
        RmrkdError: For a file that is neither, and for different protocols, each line named.
    """
    from rmrkd_cli.comparison.groups import name_teachers
    from rmrkd_cli.comparison.protocol import check_same_protocol
    from rmrkd_cli.evaluation.run import evaluate_files
    from rmrkd_cli.results.record import read_records

    read = {file: read_records(file) for file in files if file.suffix == ".json"}  # before hours are spent on others
    count = sum(len(read.get(file, [file])) for file in files)
    if count < 2:
        raise RmrkdError(f"a comparison needs two or more results, got {count}", "rmrkd compare FILE FILE")
    if read:
        check_same_protocol([record for records in read.values() for record in records])
    found: list[ComparedFile] = []
    for file in files:
        records = read[file] if file in read else evaluate_files([file], cluster, **options)
        if file not in read and found:
            check_same_protocol([found[0].record, *records])
        for record in records:
            checkpoint = _network_of(file, record)
            if checkpoint is not None:
                record["checkpoint_bytes"] = checkpoint.stat().st_size
            found.append(ComparedFile(file, record, checkpoint))
    compared = [one.record for one in found]
    check_same_protocol(compared)
    name_teachers(compared)
    return found


def add_latencies(compared: Sequence[ComparedFile], given: Any, device: str, *, allow_partial: bool) -> None:
    """Times one network of each group, in turns, so that all figures are of the same machine and hour."""
    import torch

    from rmrkd_cli.comparison.groups import group
    from rmrkd_cli.evaluation.checkpoint_network import load_checkpoint_network
    from rmrkd_cli.evaluation.latency import measure_latencies

    width, height = compared[0].record["protocol"]["scale"]
    of_record = {id(one.record): one for one in compared}
    timed, networks = [], []
    for one in compared:
        one.record.pop("latency", None)  # of another hour, if it has one
    for one in [of_record[id(of.records[0])] for of in group([one.record for one in compared])]:
        if one.checkpoint is None or (one.is_result and width * height > _TIMED_PIXELS):
            continue
        try:
            loaded = load_checkpoint_network(str(one.checkpoint), given, device, allow_partial=allow_partial)
        except RmrkdError:
            if one.is_result:  # it can be compared without its network
                continue
            raise
        networks.append(loaded.network)
        timed.append(one.record)
    for record, found in zip(timed, measure_latencies(networks, (width, height), torch.device(device)), strict=True):
        record["latency"] = found


def _network_of(file: Path, record: Record) -> Path | None:
    """The file itself; a result file's checkpoint where it lies in the same folder: it names no other place to read."""
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
        if record.get("checkpoint_sha256") not in (None, sha256_of(beside)):  # trained anew since
            return None
    except (OSError, ValueError):
        return None
    return beside
