"""The report of a comparison, with what it needs besides: training logs, example images and provenance."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.comparison.inputs import ComparedFile
    from rmrkd_cli.comparison.types import Comparison, Group
    from rmrkd_cli.report.html import Provenance
    from rmrkd_cli.report.image_selection import ReportImages
    from rmrkd_cli.results.training_log import Curves

_FILE_OF_A_RUN = re.compile(r"student\.pth|result\.json|best\.pth|last\.pth|iter_\d+\.pth")


def write_report_folder(
    comparison: Comparison, files: Sequence[ComparedFile], folder: Path, command: str, **options: Any
) -> None:
    """Write the page and the files beside it. The page names logs and images that cannot be read.

    Args:
        command: The command that writes the report again.
        options: Passed to `predict_images`: given, dataset, data_root, device, allow_partial.

    Raises:
        RunError: When a file cannot be written.
    """
    from rmrkd_cli.report.html import write_report, write_results
    from rmrkd_cli.terminal.messages import log

    written = write_results(comparison, folder)  # first, so that the results survive a failure below
    has_networks = any(file.checkpoint is not None for file in files)
    if has_networks:  # else it takes a second
        log("predicting the example images of the report, with each network")
    curves, missing_curves = _read_curves(comparison, files)
    images = _predict_images(comparison, files, options)
    if has_networks:
        log(f"drawing the figures and the page: {folder / 'index.html'}")
    write_report(
        comparison, folder, images=images, curves=curves,
        missing_curves=missing_curves, provenance=_provenance(comparison, files, command), written=written,
    )  # fmt: skip


def _files_of(group: Group, files: Sequence[ComparedFile]) -> list[ComparedFile]:
    """Return the files of a group in the order of its records."""
    return [next(file for file in files if file.record is record) for record in group.records]


def _read_curves(comparison: Comparison, files: Sequence[ComparedFile]) -> tuple[dict[str, list[Curves]], list[str]]:
    """Return the curves of each group by label, and a sentence for each run without a log."""
    from rmrkd_cli.results.training_log import LOG, read_curves

    curves: dict[str, list[Curves]] = {}
    missing = []
    for group in comparison.groups:
        curves[group.label] = []
        for file in _files_of(group, files):
            log = file.path.parent / LOG
            if not _FILE_OF_A_RUN.fullmatch(file.path.name) or not log.is_file():
                missing.append(f"no curves of {group.label}: `{file.path}` is not in a run directory")
                continue
            try:
                curves[group.label].append(read_curves(log))
            except RmrkdError as error:
                missing.append(f"no curves of {group.label}: {error}")
    return curves, missing


def _predict_images(comparison: Comparison, files: Sequence[ComparedFile], options: dict[str, Any]) -> ReportImages:
    from rmrkd_cli.report.image_selection import choose_images, representative_records
    from rmrkd_cli.report.predictions import Source, predict_images

    by_record = {id(file.record): file for file in files}
    records = representative_records(comparison, lambda record: by_record[id(record)].checkpoint is not None)
    sources = []
    for label, record in records.items():
        file, seed = by_record[id(record)], record.get("seed")
        described = f"seed {seed}" if seed is not None else file.path.name
        sources.append(Source(label, file.checkpoint, described, file.preset))
    return predict_images(sources, choose_images(comparison, records), comparison.protocol, **options)


def _provenance(comparison: Comparison, files: Sequence[ComparedFile], command: str) -> Provenance:
    from datetime import datetime, timezone

    from rmrkd_cli.report.html import File, Provenance, package_versions
    from rmrkd_cli.storage.cache import sha256_of

    compared = tuple(
        File(
            str(file.path),
            group.label,
            file.record.get("seed"),
            file.record.get("iterations") or (file.record.get("training") or {}).get("iterations"),
            file.path.stat().st_size,
            sha256_of(file.path),
        )
        for group in comparison.groups
        for file in _files_of(group, files)
    )
    date = datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
    return Provenance(command, date, compared, package_versions())
