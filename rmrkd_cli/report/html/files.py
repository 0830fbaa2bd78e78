"""The files beside the page: results as JSON, tables as CSV, figures as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rmrkd_cli.comparison.compare import as_document
from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report import figures, tables
from rmrkd_cli.report.figures.class_maps import compared_pair
from rmrkd_cli.report.figures.counts import has_matrix
from rmrkd_cli.report.figures.group_styles import styles_of
from rmrkd_cli.report.figures.series import panels
from rmrkd_cli.report.image_selection import ReportImages, main_difference
from rmrkd_cli.results.csv import Table, to_csv
from rmrkd_cli.results.record import to_json
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.terminal.text import file_names


def write_results(comparison: Comparison, folder: Path) -> list[str]:
    """Write the numbers of the comparison, and return the file names."""
    boundary = tables.boundary_table(comparison, separate_bounds=True)
    return _write_texts(
        {
            "results.json": to_json(as_document(comparison)),
            "classes.csv": to_csv(tables.class_table(comparison, separate_bounds=True)),
            "summary.csv": to_csv(tables.summary_table(comparison.groups)),
            **({"boundary.csv": to_csv(boundary)} if boundary is not None else {}),
        },
        folder,
    )


def write_tables(comparison: Comparison, curves: Mapping[str, Sequence[Curves]], folder: Path) -> list[str]:
    """Write confusion matrices and training curves as CSV, and return the file names."""
    texts = {}
    names = file_names(group.label for group in comparison.groups)
    for group in comparison.groups:
        if has_matrix(group):
            assert group.matrix is not None
            rows = [[name, *map(str, row)] for name, row in zip(comparison.classes, group.matrix, strict=True)]
            table = (["truth \\ predicted", *comparison.classes], rows)
            texts[f"confusion-{names[group.label]}.csv"] = to_csv(table)
    if any(curves.values()):
        texts["curves.csv"] = to_csv(_curves_table(curves))
    return _write_texts(texts, folder)


def _write_texts(texts: Mapping[str, str], folder: Path) -> list[str]:
    for name, text in texts.items():
        write_text(text, folder / name)
    return list(texts)


def _curves_table(curves: Mapping[str, Sequence[Curves]]) -> Table:
    """Return one row for each logged step or validation of each run; a cell is empty where nothing was logged."""
    losses = list(dict.fromkeys(name for runs in curves.values() for run in runs for name in run.weighted))
    columns = ["group", "run", "iteration", "seconds", "val mIoU %", "total", "lr", *(f"weighted {n}" for n in losses)]
    rows = [
        [label, str(number), *row]
        for label, runs in curves.items()
        for number, run in enumerate(runs, 1)
        for row in _rows_of_run(run, losses)
    ]
    return columns, rows


def _rows_of_run(run: Curves, losses: Sequence[str]) -> Iterator[list[str]]:
    rows: list[tuple[int, int, list[str]]] = []  # steps before validations of the same iteration
    for n, iteration in enumerate(run.iterations):
        values = [
            run.total[n],
            run.lr[n],
            *(run.weighted[name][n] if name in run.weighted else None for name in losses),
        ]
        rows.append((iteration, 0, [_cell(run.elapsed[n]), "", *map(_cell, values)]))
    for iteration, seconds, miou in zip(run.validated, run.validated_elapsed, run.miou, strict=True):
        rows.append((iteration, 1, [_cell(seconds), f"{100 * miou:.4f}", *[""] * (2 + len(losses))]))
    for iteration, _, cells in sorted(rows, key=lambda row: row[:2]):
        yield [str(iteration), *cells]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def write_figures(
    comparison: Comparison, images: ReportImages, curves: Mapping[str, Sequence[Curves]], folder: Path
) -> list[str]:
    """Write the figures and example images as PNG, and return the file names."""
    written = []
    if comparison.differences:
        figures.draw_classes(comparison, folder / "classes.png")
        written.append("classes.png")
    if panels(curves, more=True):
        figures.draw_curves(curves, folder / "curves.png", styles=styles_of(comparison.groups))
        written.append("curves.png")
    names = file_names(group.label for group in comparison.groups)
    for group in comparison.groups:
        if has_matrix(group):
            written.append(f"confusion-{names[group.label]}.png")
            figures.draw_confusion(group, comparison.classes, folder / written[-1])
    main = main_difference(comparison)
    names = file_names(image.name for image in images.images)
    for number, image in enumerate(images.images, 1):
        written.append(f"pictures/{number:03d}-{names[image.name]}.png")
        pair = compared_pair(main, list(image.predictions))
        figures.draw_sheet(image, images.palette, comparison.classes, pair, folder / written[-1])
    return written
