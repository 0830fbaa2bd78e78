"""A comparison as a folder to publish: one HTML page, and its figures as PNG and CSV. Nothing here imports torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report.html.document import page
from rmrkd_cli.report.html.files import write_figures, write_tables
from rmrkd_cli.report.html.files import write_results as write_results
from rmrkd_cli.report.html.provenance import File as File
from rmrkd_cli.report.html.provenance import Provenance as Provenance
from rmrkd_cli.report.html.provenance import versions as versions
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.storage.atomic import write_text


def write_report(
    comparison: Comparison,
    folder: Path,
    *,
    pictures: ReportImages,
    curves: Mapping[str, Sequence[Curves]],
    provenance: Provenance,
    without_curves: Sequence[str] = (),
    there: Sequence[str] = (),
) -> None:
    """Writes `index.html` and everything beside it.

    Args:
        curves: Of each group's runs whose log is known, by label.
        without_curves: Whose log is not known, and why, a line each.
        there: Names of files that lie in the folder already, as `write_results` gives them.

    Raises:
        RunError: When a file cannot be written.
    """
    beside = [*there, *write_tables(comparison, curves, folder), *write_figures(comparison, pictures, curves, folder)]
    text = page(
        comparison, pictures=pictures, curves=curves, without_curves=without_curves, provenance=provenance,
        beside=beside,
    )  # fmt: skip
    write_text(text, folder / "index.html")
