"""The example images of the page: photograph, labels, predictions, and where two predictions differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rmrkd_cli.comparison.types import Comparison, Difference
from rmrkd_cli.report.figures.class_maps import (
    WIDEST,
    Image,
    compared_pair,
    difference_overlay,
    full_palette,
    label_positions,
    shrink,
)
from rmrkd_cli.report.html.images import class_map, photograph
from rmrkd_cli.report.image_selection import ReportImage, ReportImages, main_difference
from rmrkd_cli.terminal.text import abbreviate_labels, plural, shorten


@dataclass(frozen=True)
class Panel:
    """One picture of an image.

    Attributes:
        kind: `photo`, `map` (a class map) or `overlay`.
        label: The group, or "truth"; for an overlay the two groups.
        source: A data URI.
        positions: Where a class map shows the numbers of its classes, see `label_positions`.
    """

    kind: str
    label: str
    source: str
    positions: Sequence[tuple[int, int, int, bool]] = ()


def gallery(comparison: Comparison, images: ReportImages) -> dict[str, Any]:
    """Return what the template of the gallery shows."""
    main = main_difference(comparison)
    labels = list(images.images[0].predictions) if images.images else []
    return {
        "main": main,
        "pair": compared_pair(main, labels),
        "selection": _selection_text(images, comparison.protocol["images"]),
        "legend": _legend(comparison.classes, images),
        "colours": _colour_names(comparison.classes, images),
        "parts": [
            (reason, [_example(image, images, main) for image in images.images if image.choice.reason == reason])
            for reason in ("gain", "loss", "random")
        ],
        "options": [("truth", "truth"), *abbreviate_labels(labels, 22).items()],
        "checkpoints": images.checkpoints,
        "missing": [shorten(line, 400) for line in images.missing],
    }


def _selection_text(images: ReportImages, total: int) -> str:
    reasons = [image.choice.reason for image in images.images]
    gains, losses, others = (reasons.count(reason) for reason in ("gain", "loss", "random"))
    extremes = f"the {gains} with the largest gain, the {losses} with the largest loss" if gains + losses else ""
    random = f"{others} drawn at random with a fixed seed"
    return f"{len(reasons)} of {plural(total, 'image')}: " + (f"{extremes}, and {random}" if extremes else random)


def _legend(classes: Sequence[str], images: ReportImages) -> list[tuple[str, str, str]]:
    """Return (colour, number, name) of every class that occurs in the maps."""
    maps = [part for image in images.images for part in (image.truth, *image.predictions.values())]
    seen = sorted({int(k) for part in maps for k in np.unique(part)})
    colours = _hex_colours(images)
    known = min(len(classes), len(images.palette))
    legend = [(colours[k], str(k), classes[k]) for k in seen if k < known]
    return [*legend, (colours[255], "", "ignored")] if 255 in seen else legend


def _hex_colours(images: ReportImages) -> list[str]:
    return ["#{:02x}{:02x}{:02x}".format(*colour) for colour in full_palette(images.palette).tolist()]


def _colour_names(classes: Sequence[str], images: ReportImages) -> str:
    """Return `rrggbb name` for each class, one a line: the script reads the class under the pointer from its colour."""
    named = zip(_hex_colours(images), classes, strict=False)
    return "\n".join(f"{colour[1:]} {shorten(name, 40)}" for colour, name in named)


def _example(image: ReportImage, images: ReportImages, main: Difference | None) -> dict[str, Any]:
    predictions = {label: shrink(part, WIDEST) for label, part in image.predictions.items()}
    photo, truth = shrink(image.image, WIDEST), shrink(image.truth, WIDEST)
    panels = [Panel("photo", "image", photograph(photo)), _map_panel("truth", truth, images)]
    panels += [_map_panel(label, part, images) for label, part in predictions.items()]
    pair = compared_pair(main, list(predictions))
    if pair is not None:
        overlay = difference_overlay(photo, truth, *(predictions[label] for label in pair))
        panels.append(Panel("overlay", " ≠ ".join(abbreviate_labels(pair, 20).values()), photograph(overlay)))
    height, width = truth.shape
    return {
        "name": image.name, "difference": image.choice.difference, "panels": panels, "width": width, "height": height,
        "font_size": max(9, round(width / 20)), "pair": pair,
    }  # fmt: skip


def _map_panel(label: str, classes: Image, images: ReportImages) -> Panel:
    return Panel("map", label, class_map(classes, images.palette), label_positions(classes, images.palette))
