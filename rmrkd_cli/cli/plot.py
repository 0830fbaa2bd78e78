"""`rmrkd plot`"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from rmrkd_cli.cli.usage_errors import cut
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.storage.output_paths import check_new_file

_MOST_RUNS = 50
_SUFFIXES = (".png", ".svg", ".pdf")


class Over(str, Enum):
    iterations = "iterations"
    seconds = "seconds"


def plot_command(
    runs: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Directories of runs, or their log.jsonl; running ones too.")
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="FILE", help="A new file, ending in .png, .svg or .pdf.")
    ] = Path("curves.png"),
    over: Annotated[Over, typer.Option("--x", help="What is drawn to the right.")] = Over.iterations,
    smooth: Annotated[
        float, typer.Option(metavar="W", help="Running mean of the losses: the weight of what was before, 0 to 0.999.")
    ] = 0.0,
) -> None:
    """Draw the training curves of runs: validation mIoU, losses, learning rate."""
    from rmrkd_cli.terminal import console

    if out.suffix.lower() not in _SUFFIXES:
        nearest = did_you_mean(out.suffix, _SUFFIXES)
        raise RmrkdError(
            f"`--out {cut(str(out))}` ends as no picture does that can be written, {nearest}", "--out FILE.png"
        )
    if not 0 <= smooth <= 0.999:
        raise RmrkdError(f"`--smooth {smooth:g}` must be from 0 (as logged) to 0.999", "--smooth 0.9")
    if len(runs) > _MOST_RUNS:
        raise RmrkdError(f"{len(runs)} runs cannot be told apart, at most {_MOST_RUNS} are possible", "name fewer")
    check_new_file(out, inputs=runs)
    from rmrkd_cli.results.training_log import find_log, read_curves

    logs = [find_log(run) for run in runs]
    curves = [read_curves(log) for log in logs]
    from rmrkd_cli.report.figures import draw_curves

    named = {label: [one] for label, one in zip(run_labels(logs), curves, strict=True)}
    draw_curves(named, out, seconds=over is Over.seconds, smooth=smooth)
    for label, (one,) in named.items():
        console.write_line(f"{label}: {_told(one.iterations, one.validated, one.miou)}")
    console.write_line(f"{out}: curves of {len(logs)} run{'s' * (len(logs) > 1)}")


def run_labels(logs: list[Path]) -> list[str]:
    """As many of the folders above each log as are needed to tell them apart."""
    folders = [log.absolute().parent.parts[1:] for log in logs]
    for depth in range(1, max(map(len, folders), default=0) + 1):
        labels = ["/".join(parts[-depth:]) or "/" for parts in folders]
        if len(set(labels)) == len(labels):
            return labels
    return [f"{number}: {'/'.join(parts[-2:])}" for number, parts in enumerate(folders, 1)]


def _told(iterations: tuple[int, ...], validated: tuple[int, ...], miou: tuple[float, ...]) -> str:
    last = max([*iterations[-1:], *validated[-1:]])
    best = f", best mIoU {100 * max(miou):.2f} at iteration {validated[miou.index(max(miou))]}" if miou else ""
    return f"iteration {last}{best}"
