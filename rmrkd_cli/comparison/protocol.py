"""The check that results share one evaluation protocol, and so are comparable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rmrkd_cli.comparison.groups import label_of
from rmrkd_cli.comparison.label_agreement import label_difference
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.text import shorten

_NAMES = {
    "dataset": "data set",
    "split": "split",
    "images": "number of images",
    "fingerprint": "set of images",
    "classes": "classes",
    "scale": "image scale",
    "scales": "scales",
    "flip": "flip",
    "mode": "inference mode",
    "window": "window",
    "stride": "stride",
    "max_value": "value of white",
}


def check_same_protocol(records: Sequence[Record]) -> None:
    """Raise RmrkdError that lists every difference between the protocols, and the first between the labels."""
    first = records[0]["protocol"]
    lines: list[str] = []
    hint = "evaluate all of them with one `rmrkd eval` command"
    for record in records[1:]:
        other = record["protocol"]
        unknown = sorted((first.keys() | other.keys()) - _NAMES.keys())  # keys of later versions
        different = [key for key in (*_NAMES, *unknown) if first.get(key) != other.get(key)]
        labels = [shorten(label_of(one)) for one in (records[0], record)]
        lines += [
            f"  {_NAMES.get(key, shorten(key))}: {shorten(first.get(key))} in `{labels[0]}`, "
            f"{shorten(other.get(key))} in `{labels[1]}`"
            for key in different
        ]
        if different and set(different) <= {"window", "stride"}:  # by default each checkpoint has its own
            hint = f"evaluate them again with one window: {_window_options(first)}"
        elif not different and (difference := label_difference(records[0], record)):
            lines.append(f"  labels, in `{labels[0]}` and `{labels[1]}`: {difference}")
    if lines:
        raise RmrkdError("these results have different protocols and are not comparable:\n" + "\n".join(lines), hint)


def _window_options(protocol: Mapping[str, Any]) -> str:
    crop, stride = ("x".join(map(str, protocol[key])) for key in ("window", "stride"))
    return f"--mode slide --crop {crop} --stride {stride}"
