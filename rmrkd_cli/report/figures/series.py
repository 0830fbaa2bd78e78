"""Training curves as series to draw: over iterations or seconds, smoothed and thinned."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rmrkd_cli.results.training_log import Column, Curves

_MAX_POINTS = 150
_LOG_FROM = 20  # ratio of the largest to the smallest value, from which the y axis is logarithmic

Points = tuple[tuple[float, float], ...]
Runs = Mapping[str, Sequence[Curves]]
_Values = Callable[[Curves], Column]


@dataclass(frozen=True)
class Series:
    """The line of one run. All runs of a group have its label."""

    label: str
    points: Points


@dataclass(frozen=True)
class Panel:
    """Lines that share their axes.

    Attributes:
        unit: Of y; empty for a loss.
        log: Whether the y axis is logarithmic.
        marked: Whether each point is one measurement and gets a marker.
    """

    title: str
    unit: str
    series: tuple[Series, ...]
    log: bool = False
    marked: bool = False

    @property
    def has_single_points(self) -> bool:
        """Return whether no run has two points, so that there is no line to draw."""
        return all(len(one.points) < 2 for one in self.series)


def panels(runs: Runs, *, seconds: bool = False, smooth: float = 0.0, more: bool = False) -> list[Panel]:
    """Return panels for mIoU, the total loss and each weighted loss that any run logged.

    Args:
        runs: By label.
        seconds: Put seconds of training on the x axis, instead of iterations.
        smooth: Weight of the past in a running mean of the losses, from 0 (none) to below 1.
        more: Add gradient norm and learning rate.
    """
    drawn = [Panel("validation mIoU", "%", tuple(_validations(runs, seconds)), marked=True)]
    drawn.append(_loss_panel("total weighted loss", runs, lambda run: run.total, seconds, smooth))
    losses = dict.fromkeys(name for group in runs.values() for run in group for name in run.weighted)
    for name in losses:
        drawn.append(_loss_panel(name, runs, _weighted(name), seconds, smooth))
    if more:
        drawn.append(_loss_panel("gradient norm", runs, lambda run: run.gradient_norm, seconds, smooth))
        drawn.append(Panel("learning rate", "", tuple(_lines(runs, lambda run: run.lr, seconds, 0.0))))
    return [panel for panel in drawn if any(series.points for series in panel.series)]


def _weighted(name: str) -> _Values:
    return lambda run: run.weighted.get(name, ())


def _loss_panel(title: str, runs: Runs, values: _Values, seconds: bool, smooth: float) -> Panel:
    series = tuple(_lines(runs, values, seconds, smooth))
    ys = [y for one in series for _, y in one.points]
    log = bool(ys) and min(ys) > 0 and max(ys) > _LOG_FROM * min(ys)
    return Panel(title, "", series, log=log)


def _lines(runs: Runs, values: _Values, seconds: bool, smooth: float) -> Iterator[Series]:
    for label, group in runs.items():
        for run in group:
            xs: Column = run.elapsed if seconds else run.iterations
            yield Series(label, thin_out(running_mean(_known_points(xs, values(run)), smooth)))


def _validations(runs: Runs, seconds: bool) -> Iterator[Series]:
    for label, group in runs.items():
        for run in group:
            xs: Column = run.validated_elapsed if seconds else run.validated
            points = _known_points(xs, tuple(100 * value for value in run.miou))
            yield Series(label, points if len(points) <= 2 * _MAX_POINTS else thin_out(points))


def _known_points(xs: Column, ys: Column) -> Points:
    return tuple((x, y) for x, y in zip(xs, ys, strict=False) if x is not None and y is not None)


def running_mean(points: Points, weight: float) -> Points:
    """Return an exponential running mean without the bias towards zero of its first values."""
    if weight <= 0:
        return points
    total, mass, smoothed = 0.0, 0.0, []
    for x, y in points:
        total, mass = weight * total + (1 - weight) * y, weight * mass + 1 - weight
        smoothed.append((x, total / mass))
    return tuple(smoothed)


def thin_out(points: Points, max_points: int = _MAX_POINTS) -> Points:
    """Return at most `max_points` points: means of neighbours. The line keeps its first and last x."""
    if len(points) <= max_points:
        return points
    bounds = [len(points) * number // max_points for number in range(max_points + 1)]
    parts = [points[low:high] for low, high in itertools.pairwise(bounds)]
    means = [(sum(x for x, _ in part) / len(part), sum(y for _, y in part) / len(part)) for part in parts]
    means[0], means[-1] = (points[0][0], means[0][1]), (points[-1][0], means[-1][1])
    return tuple(means)
