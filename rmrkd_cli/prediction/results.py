"""The results of `rmrkd predict`: pixel shares per input, as JSON, as CSV and as a summary."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.results.csv import to_csv

_MAX_LISTED = 10  # unreadable inputs in a message


@dataclass
class PredictionResults:
    """The inputs that were predicted, and those that could not be read.

    Attributes:
        card: Classes and palette of the network.
        entries: One dict per predicted input, as in predictions.json: `input`, the files written, `width`, `height`,
            and `shares`, the pixel share (0 to 1) of each class that occurs.
        unread: One message per input that could not be read, or only in part.
    """

    card: ModelCard
    entries: list[dict[str, Any]] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


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
