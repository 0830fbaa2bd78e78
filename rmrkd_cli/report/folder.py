"""What a report needs besides the comparison: logs beside the files, pictures, and where everything came from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.comparison.inputs import Compared
    from rmrkd_cli.comparison.types import Comparison, Group
    from rmrkd_cli.report.html import Provenance
    from rmrkd_cli.report.image_selection import ReportImages
    from rmrkd_cli.results.training_log import Curves

_OF_A_RUN = re.compile(r"student\.pth|result\.json|best\.pth|last\.pth|iter_\d+\.pth")


def write_report_folder(
    comparison: Comparison, compared: Sequence[Compared], folder: Path, command: str, **how: Any
) -> None:
    """Writes the page and its figures; what cannot be shown is named there and fails nothing.

    Args:
        command: What makes the report again.
        how: As for `take_pictures`: given, dataset, data_root, device, allow_partial.

    Raises:
        RunError: When a file cannot be written.
    """
    from rmrkd_cli.report.html import write_report, write_results

    there = write_results(comparison, folder)  # what was measured is safe before anything is drawn
    curves, lost = _curves(comparison, compared)
    write_report(
        comparison, folder, pictures=_pictures(comparison, compared, how), curves=curves, without_curves=lost,
        provenance=_provenance(comparison, compared, command), there=there,
    )  # fmt: skip


def _of(group: Group, compared: Sequence[Compared]) -> list[Compared]:
    """In the order of the group's records."""
    return [next(one for one in compared if one.record is record) for record in group.records]


def _curves(comparison: Comparison, compared: Sequence[Compared]) -> tuple[dict[str, list[Curves]], list[str]]:
    from rmrkd_cli.results.training_log import LOG, read_curves

    found: dict[str, list[Curves]] = {}
    lost = []
    for group in comparison.groups:
        found[group.label] = []
        for one in _of(group, compared):
            log = one.file.parent / LOG
            if not _OF_A_RUN.fullmatch(one.file.name) or not log.is_file():
                lost.append(f"no curves of {group.label}: `{one.file}` does not lie in a run's directory")
                continue
            try:
                found[group.label].append(read_curves(log))
            except RmrkdError as error:
                lost.append(f"no curves of {group.label}: {error}")
    return found, lost


def _pictures(comparison: Comparison, compared: Sequence[Compared], how: dict[str, Any]) -> ReportImages:
    from rmrkd_cli.report.image_selection import choose, shown_records
    from rmrkd_cli.report.predictions import Source, predict_images

    files = {id(one.record): one for one in compared}
    shown = shown_records(comparison, lambda record: files[id(record)].checkpoint is not None)
    sources = []
    for label, record in shown.items():
        one, seed = files[id(record)], record.get("seed")
        sources.append(Source(label, one.checkpoint, f"seed {seed}" if seed is not None else one.file.name))
    return predict_images(sources, choose(comparison, shown), comparison.protocol, **how)


def _provenance(comparison: Comparison, compared: Sequence[Compared], command: str) -> Provenance:
    from datetime import datetime, timezone

    from rmrkd_cli.report.html import File, Provenance, versions
    from rmrkd_cli.storage.cache import sha256_of

    files = tuple(
        File(
            str(one.file),
            group.label,
            one.record.get("seed"),
            one.record.get("iterations") or (one.record.get("training") or {}).get("iterations"),
            one.file.stat().st_size,
            sha256_of(one.file),
        )
        for group in comparison.groups
        for one in _of(group, compared)
    )
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Provenance(command, now, files, versions())
