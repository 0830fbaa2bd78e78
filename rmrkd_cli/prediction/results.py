"""The results of `rmrkd predict`: pixel shares per input, as JSON, as CSV and as a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from rmrkd_cli.data.deep_image import ValueRange, describe_clipping
from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.prediction.inputs import convert_hint, list_paths
from rmrkd_cli.results.csv import to_csv

MAX_SIDE = 16_384  # pixels of `--scale`
MIN_REDUCTION = 1.5  # times fewer pixels, from which it is said
_MAX_LISTED = 10  # unreadable inputs in a message


class Shrunk(NamedTuple):
    """An input that was reduced: its size and the size that the network got, both (width, height)."""

    path: Path
    size: tuple[int, int]
    network_size: tuple[int, int]
    slides: bool

    @property
    def factor(self) -> float:
        """How many times fewer pixels the network got."""
        return self.size[0] * self.size[1] / (self.network_size[0] * self.network_size[1])


def reduction_note(shrunk: Sequence[Shrunk]) -> str:
    """Return how much the images were reduced, and the options that avoid it."""
    most = max(shrunk, key=lambda one: one.factor)
    width, height = most.size
    sizes = f"{width}x{height} to {most.network_size[0]}x{most.network_size[1]}"
    times = f"{most.factor:.0f}" if most.factor >= 10 else f"{most.factor:.1f}"
    begin = "" if len(shrunk) == 1 else f"{len(shrunk)} inputs were reduced before the network saw them, for example "
    options = f"{'' if most.slides else '--mode slide '}--scale {width}x{height}"
    fix = f"; {options} predicts at full size" if max(width, height) <= MAX_SIDE else ""
    return (
        f"{begin}`{most.path}` was reduced from {sizes} for the network, {times} times fewer pixels, so small objects "
        f"may be missed{fix}"
    )


def clipping_note(clipped: Sequence[tuple[Path, ValueRange]]) -> str:
    """Return which values of the inputs were not kept, as `data check` says it."""
    path, first = clipped[0]
    if len(clipped) == 1:
        return f"`{path}` has {', and '.join(describe_clipping([first]).values())}"
    texts = describe_clipping([values for _, values in clipped], "their").values()
    return f"{len(clipped)} inputs, for example `{path}`, have {', and '.join(texts)}"


def clipped_shares(clipped: Sequence[tuple[Path, ValueRange]]) -> list[dict[str, Any]]:
    """Return the entries of predictions.json for inputs whose values were not all kept."""
    return [
        {"input": str(path), "above": values.above, "below": values.below, "nan": values.nan}
        for path, values in clipped
    ]


@dataclass
class PredictionResults:
    """The inputs that were predicted, and those that could not be read.

    Attributes:
        card: Classes and palette of the network.
        entries: One dict per predicted input, as in predictions.json: `input`, the files written, `width`, `height`,
            and `shares`, the pixel share (0 to 1) of each class that occurs.
        unread: One message per input that could not be read, or only in part.
        passed_over: Files in the given folders that are no image or video by their suffix.
        paged: (path, number of pages) of images of which only the first page was predicted.
        shrunk: Inputs whose pixels were reduced before the network saw them.
        clipped: Inputs with values above the value of white, below 0, or NaN.
    """

    card: ModelCard
    entries: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    passed_over: list[Path] = field(default_factory=list)
    paged: list[tuple[Path, int]] = field(default_factory=list)
    shrunk: list[Shrunk] = field(default_factory=list)
    clipped: list[tuple[Path, ValueRange]] = field(default_factory=list)

    @property
    def notes(self) -> list[str]:
        """What was not predicted, not at its full size, or not with its values, one sentence each."""
        notes = [reduction_note(self.shrunk)] if self.shrunk else []
        if self.clipped:
            notes.append(clipping_note(self.clipped))
        if self.paged:
            pages = [f"`{path}` ({count})" for path, count in self.paged[:_MAX_LISTED]]
            more = f" and {len(self.paged) - _MAX_LISTED} more" if len(self.paged) > _MAX_LISTED else ""
            notes.append(f"only the first page of these files was predicted: {', '.join(pages)}{more}")
        if self.passed_over:
            files = list_paths(self.passed_over)
            notes.append(f"passed over, no image or video: {files}{convert_hint(self.passed_over)}")
        return notes


def mean_shares(results: PredictionResults) -> list[tuple[str, float]]:
    """Return (class name, mean pixel share over the inputs) of the classes that occur, the largest first."""
    total: Counter[str] = Counter()
    for entry in results.entries:
        total.update(entry["shares"])
    return [(name, share / len(results.entries)) for name, share in total.most_common()]


def list_unread(results: PredictionResults) -> str:
    """Return the messages of the unreadable inputs, one per line, at most 10."""
    lines = [f"  {message}" for message in results.unread[:_MAX_LISTED]]
    more = len(results.unread) - _MAX_LISTED
    return "\n".join(lines + ([f"  … and {more} more, in predictions.json"] if more > 0 else []))


def to_json(contents: dict[str, Any]) -> str:
    """Return indented JSON with one line per input."""
    lines = ",\n".join(f"  {json.dumps(entry)}" for entry in contents["inputs"])
    texts = {key: json.dumps(value) for key, value in contents.items()}
    texts["inputs"] = f"[\n{lines}\n ]" if lines else "[]"
    return "{\n" + ",\n".join(f' "{key}": {text}' for key, text in texts.items()) + "\n}\n"


def shares_csv(classes: Sequence[str], entries: list[dict[str, Any]]) -> str:
    """Return one line per input with the pixel share of each class."""
    rows = [
        [
            entry["input"], str(entry["width"]), str(entry["height"]),
            *(str(entry["shares"].get(name, 0.0)) for name in classes),
        ]
        for entry in entries
    ]  # fmt: skip
    return to_csv((["input", "width", "height", *classes], rows))
