"""What lies beside the page: confusion matrices and curves as CSV, figures as PNG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rmrkd_cli.comparison.types import Comparison
from rmrkd_cli.report import figures
from rmrkd_cli.report.figures.class_maps import pair_of
from rmrkd_cli.report.figures.counts import has_matrix
from rmrkd_cli.report.figures.group_styles import styles_of
from rmrkd_cli.report.figures.series import panels
from rmrkd_cli.report.image_selection import ReportImages, main_difference
from rmrkd_cli.results.training_log import Curves
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.terminal.text import file_names

Table = tuple[list[str], list[list[str]]]


def write_results(comparison: Comparison, folder: Path) -> list[str]:
    """The comparison as `rmrkd compare` shows it, without any figure; returns the names of the files."""
    from rmrkd_cli.comparison.compare import as_document
    from rmrkd_cli.report import tables
    from rmrkd_cli.results.csv import to_csv
    from rmrkd_cli.results.record import to_json

    texts = {
        "results.json": to_json(as_document(comparison)),
        "classes.csv": to_csv(tables.class_table(comparison, apart=True)),
        "summary.csv": to_csv(tables.summary_table(comparison.groups)),
    }
    for name, text in texts.items():
        write_text(text, folder / name)
    return list(texts)


def write_tables(comparison: Comparison, curves: Mapping[str, Sequence[Curves]], folder: Path) -> list[str]:
    """Returns the names of the files."""
    from rmrkd_cli.results.csv import to_csv

    texts = {name: to_csv(table) for name, table in _tables(comparison, curves).items()}
    for name, text in texts.items():
        write_text(text, folder / name)
    return list(texts)


def _tables(comparison: Comparison, curves: Mapping[str, Sequence[Curves]]) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    names = file_names(group.label for group in comparison.groups)
    for group in comparison.groups:
        if has_matrix(group):
            assert group.matrix is not None
            rows = [[kind, *map(str, row)] for kind, row in zip(comparison.classes, group.matrix, strict=True)]
            tables[f"confusion-{names[group.label]}.csv"] = ["truth \\ predicted", *comparison.classes], rows
    if any(curves.values()):
        tables["curves.csv"] = curves_csv(curves)
    return tables


def curves_csv(curves: Mapping[str, Sequence[Curves]]) -> Table:
    """A line a logged step or validation of every run; empty where a line has no such figure."""
    losses = list(dict.fromkeys(name for runs in curves.values() for run in runs for name in run.weighted))
    columns = ["group", "run", "iteration", "seconds", "val mIoU %", "total", "lr", *(f"weighted {n}" for n in losses)]
    rows = [
        [label, str(number), *row]
        for label, runs in curves.items()
        for number, run in enumerate(runs, 1)
        for row in _of_run(run, losses)
    ]
    return columns, rows


def _of_run(run: Curves, losses: Sequence[str]) -> Iterator[list[str]]:
    lines: list[tuple[int, int, list[str]]] = []
    for at, iteration in enumerate(run.iterations):
        figures_of = [run.total[at], run.lr[at], *(run.weighted[n][at] if n in run.weighted else None for n in losses)]
        lines.append((iteration, 0, [_cell(run.elapsed[at]), "", *map(_cell, figures_of)]))
    for iteration, seconds, miou in zip(run.validated, run.validated_elapsed, run.miou, strict=True):
        lines.append((iteration, 1, [_cell(seconds), f"{100 * miou:.4f}", *[""] * (2 + len(losses))]))
    for iteration, _, cells in sorted(lines, key=lambda line: line[:2]):
        yield [str(iteration), *cells]


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.8g}"


def write_figures(
    comparison: Comparison, pictures: ReportImages, curves: Mapping[str, Sequence[Curves]], folder: Path
) -> list[str]:
    """Returns the names of the files."""
    written = []
    labels = [group.label for group in comparison.groups]
    if comparison.differences:
        figures.draw_classes(comparison, folder / "classes.png")
        written.append("classes.png")
    if panels(curves, more=True):
        figures.draw_curves(curves, folder / "curves.png", styles=styles_of(comparison.groups))
        written.append("curves.png")
    names = file_names(labels)
    for group in comparison.groups:
        if has_matrix(group):
            file = f"confusion-{names[group.label]}.png"
            figures.draw_confusion(group, comparison.classes, folder / file)
            written.append(file)
    pair = main_difference(comparison)
    sheets = list(file_names(picture.name for picture in pictures.shown).values())
    for number, (picture, name) in enumerate(zip(pictures.shown, sheets, strict=True), 1):
        file = f"pictures/{number:03d}-{name}.png"
        shown = pair_of(pair, list(picture.predictions))
        figures.draw_sheet(picture, pictures.palette, comparison.classes, shown, folder / file)
        written.append(file)
    return written
