"""`rmrkd plot`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rmrkd_cli.cli.command import option
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.output_paths import check_new_file
from rmrkd_cli.terminal.text import format_percent, plural, shorten_value

if TYPE_CHECKING:
    from rmrkd_cli.results.training_log import Curves

_FIGURE = "Figure"
_MAX_RUNS = 50
_MAX_SMOOTH = 0.999
_SUFFIXES = (".png", ".svg", ".pdf")


class XAxis(str, Enum):
    iterations = "iterations"
    seconds = "seconds"


def plot_command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN", help="Draw these run directories or log.jsonl files; a run may still be training."
        ),
    ],
    out: Annotated[
        Path, option("--out", _FIGURE, "Write a new file that ends in .png, .svg or .pdf.", metavar="FILE")
    ] = Path("curves.png"),
    force: Annotated[bool, option("--force", _FIGURE, "Replace the figure if it exists.")] = False,
    x_axis: Annotated[XAxis, option("--x", _FIGURE, "Draw over iterations or over seconds of training.")] = (
        XAxis.iterations
    ),
    smooth: Annotated[
        float,
        option(
            "--smooth",
            _FIGURE,
            "Smooth the losses by a running mean in which earlier steps have the weight W, 0 to 0.999.",
            metavar="W",
        ),
    ] = 0.0,
) -> None:
    """Draw the training curves of runs: validation mIoU, losses and learning rate.

    Examples:
        rmrkd plot work_dirs/demo/distill
        rmrkd plot work_dirs/demo/baseline work_dirs/demo/distill --out curves.pdf --smooth 0.9
    """
    _check_options(runs, out, smooth, force)
    from rmrkd_cli.report.figures import draw_curves
    from rmrkd_cli.results.training_log import find_log, read_curves
    from rmrkd_cli.terminal import console

    logs = [find_log(run) for run in runs]
    curves = dict(zip(run_labels(logs), map(read_curves, logs), strict=True))
    draw_curves(
        {label: [run] for label, run in curves.items()}, out, seconds=x_axis is XAxis.seconds, smooth=smooth
    )  # fmt: skip
    for label, run in curves.items():
        console.print_line(f"{label}: {_summary(run)}")
    console.print_line(f"{out}: curves of {plural(len(logs), 'run')}")


def _check_options(runs: list[Path], out: Path, smooth: float, force: bool) -> None:
    if out.suffix.lower() not in _SUFFIXES:
        raise RmrkdError(
            f"`--out {shorten_value(out)}` must end in {', '.join(_SUFFIXES)}, {did_you_mean(out.suffix, _SUFFIXES)}",
            "--out FILE.png",
        )
    if not 0 <= smooth <= _MAX_SMOOTH:
        raise RmrkdError(f"`--smooth {smooth:g}` must be from 0 (as logged) to {_MAX_SMOOTH}", "--smooth 0.9")
    if len(runs) > _MAX_RUNS:
        raise RmrkdError(f"{len(runs)} runs are too many for one figure, at most {_MAX_RUNS}", "name fewer runs")
    check_new_file(out, force=force, inputs=runs)


def run_labels(logs: list[Path]) -> list[str]:
    """Return a label for each log: as many of its parent folders as make all labels different."""
    folders = [log.absolute().parent.parts[1:] for log in logs]
    for depth in range(1, max(map(len, folders), default=0) + 1):
        labels = ["/".join(parts[-depth:]) or "/" for parts in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{number}: {'/'.join(parts[-2:])}" for number, parts in enumerate(folders, 1)]


def _summary(run: Curves) -> str:
    """Return `iteration 300, best mIoU 36.55 at iteration 200`."""
    last = f"iteration {max([*run.iterations[-1:], *run.validated[-1:]])}"
    if not run.miou:
        return last
    best = max(run.miou)
    return f"{last}, best mIoU {format_percent(best)} at iteration {run.validated[run.miou.index(best)]}"
