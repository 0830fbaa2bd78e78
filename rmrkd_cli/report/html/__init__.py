"""The report of a comparison: a folder with one HTML page and its figures and tables as PNG, CSV and JSON.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report.html.document import render_page
from rmrkd_cli.report.html.files import write_figures, write_tables
from rmrkd_cli.report.html.files import write_results as write_results
from rmrkd_cli.report.html.provenance import File as File
from rmrkd_cli.report.html.provenance import Provenance as Provenance
from rmrkd_cli.report.html.provenance import package_versions as package_versions
from rmrkd_cli.report.image_selection import ReportImages
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.storage.atomic import write_text


def write_report(
    comparison: Comparison,
    folder: Path,
    *,
    images: ReportImages,
    curves: Mapping[str, Sequence[Curves]],
    provenance: Provenance,
    missing_curves: Sequence[str] = (),
    written: Sequence[str] = (),
) -> None:
    """Write `index.html`, the figures and the tables.

    Args:
        curves: The logs of each group's runs, by label.
        missing_curves: A sentence for each run without a log.
        written: Files that are already in the folder, as returned by `write_results`.

    Raises:
        RunError: When a file cannot be written.
    """
    tables = write_tables(comparison, curves, folder)
    file_names = [*written, *tables, *write_figures(comparison, images, curves, folder)]
    page = render_page(
        comparison, images=images, curves=curves, missing_curves=missing_curves, provenance=provenance,
        file_names=file_names,
    )  # fmt: skip
    write_text(page, folder / "index.html")
