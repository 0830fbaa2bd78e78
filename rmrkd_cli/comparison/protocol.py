"""The check that results were measured in the same way, before they are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rmrkd_cli.comparison.groups import label
from rmrkd_cli.comparison.label_agreement import truth_differs
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.results.record import Record
from rmrkd_cli.terminal.sanitize import escape_control

if TYPE_CHECKING:
    pass


_PROTOCOL_WORDS = {
    "dataset": "data set",
    "split": "split",
    "images": "number of images",
    "fingerprint": "set of images",
    "classes": "classes",
    "scale": "image scale",
    "scales": "scales",
    "flip": "flip",
    "mode": "inference",
    "window": "window",
    "stride": "stride",
}


def check_same_protocol(records: Sequence[Record]) -> None:
    """Raises RmrkdError naming each line of the protocol that differs, and the first label that does."""
    first = records[0]["protocol"]
    lines: list[str] = []
    hint = "evaluate all of them with one `rmrkd eval` command"
    for record in records[1:]:
        other = record["protocol"]
        later = sorted((first.keys() | other.keys()) - _PROTOCOL_WORDS.keys())  # keys of versions to come
        found = [key for key in (*_PROTOCOL_WORDS, *later) if first.get(key) != other.get(key)]
        lines += [
            f"  {_PROTOCOL_WORDS.get(key, _short(key))}: {_short(first.get(key))} in `{_short(label(records[0]))}`, "
            f"{_short(other.get(key))} in `{_short(label(record))}`"
            for key in found
        ]
        if found and set(found) <= {"window", "stride"}:  # each as its own checkpoint has it
            hint = f"measure them anew with one window: {_window_options(first)}"
        elif not found and (told := truth_differs(records[0], record)):
            lines.append(f"  labels, in `{_short(label(records[0]))}` and `{_short(label(record))}`: {told}")
    if lines:
        raise RmrkdError("these results were measured differently and are not comparable:\n" + "\n".join(lines), hint)


def _window_options(protocol: Mapping[str, Any]) -> str:
    crop, stride = ("x".join(map(str, protocol[key])) for key in ("window", "stride"))
    return f"--mode slide --crop {crop} --stride {stride}"


def _short(value: object) -> str:
    text = escape_control(value)
    return text if len(text) <= 60 else text[:57] + "…"
