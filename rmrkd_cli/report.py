"""Result records, and their views: tables, JSON, CSV and HTML are made from one record."""

from __future__ import annotations

import csv
import html
import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.metrics import ConfusionMatrix
from rmrkd_cli.record import FORMAT
from rmrkd_cli.record import read_record as read_record
from rmrkd_cli.record import to_json as to_json
from rmrkd_cli.visible import visible

Record = dict[str, Any]
Table = tuple[list[str], list[list[str]]]
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


def make_record(
    matrix: ConfusionMatrix,
    protocol: Mapping[str, Any],
    *,
    per_image: Mapping[str, Any] | None = None,
    **facts: Any,
) -> Record:
    """A result as plain JSON types: the counts, the ratios made from them, how they were measured, and of what.

    Args:
        protocol: Everything that must agree before two results may be compared.
        per_image: `names` and `counts` of the images, which add up to the matrix.
        facts: `name`, `role`, `method`, `seed`, `iterations`, `checkpoint`, `parameters`, `macs`, `training`, …
    """
    metrics = matrix.result()
    return {
        "format": FORMAT,
        **facts,
        "protocol": dict(protocol),
        "metrics": {
            "miou": _number(metrics.miou),
            "macc": _number(metrics.macc),
            "aacc": _number(metrics.aacc),
            "mdice": _number(metrics.mdice),
            "iou": [_number(value) for value in metrics.iou.tolist()],
            "accuracy": [_number(value) for value in metrics.accuracy.tolist()],
            "dice": [_number(value) for value in metrics.dice.tolist()],
        },
        "matrix": matrix.matrix.cpu().tolist(),
        **({"per_image": dict(per_image)} if per_image is not None else {}),
    }


def check_same_protocol(records: Sequence[Record]) -> None:
    """Raises RmrkdError naming each line of the protocol that differs."""
    first = records[0]["protocol"]
    lines = []
    for record in records[1:]:
        other = record["protocol"]
        for key, word in _PROTOCOL_WORDS.items():
            if first.get(key) != other.get(key):
                lines.append(
                    f"  {word}: {_short(first.get(key))} in `{_short(label(records[0]))}`, "
                    f"{_short(other.get(key))} in `{_short(label(record))}`"
                )
    if lines:
        raise RmrkdError(
            "these results were measured differently and are not comparable:\n" + "\n".join(lines),
            "evaluate all of them with one `rmrkd eval` command",
        )


def label(record: Record) -> str:
    """A short name of what was measured."""
    return str(record.get("label") or record.get("role") or Path(str(record.get("checkpoint", "?"))).stem)


def labels(records: Sequence[Record]) -> list[str]:
    """Names that tell the records apart: the role, then the preset, then the file, as far as needed."""
    named = [{**record, "label": label(record)} for record in records]
    for way in (("label",), ("name", "label"), ("name", "label", "seed"), ("checkpoint",)):
        names = [" ".join(str(record.get(key, "?")) for key in way) for record in named]
        if len(set(names)) == len(names):
            return names
    return [f"{number}: {label(record)}" for number, record in enumerate(records, 1)]


def percent(value: float | None, digits: int = 2) -> str:
    """A ratio as percent; `–` for a class that never occurs."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def class_table(records: Sequence[Record]) -> Table:
    """IoU of every class in every record, and the differences to the baseline (to the first where there is none)."""
    names, roles = labels(records), [record.get("role") for record in records]
    first = roles.index("baseline") if roles.count("baseline") == 1 else 0
    compared = [n for n in range(len(records)) if n != first and (roles[first] != "baseline" or roles[n] != "teacher")]
    columns = ["class", *names, *(f"{names[n]} - {names[first]}" for n in compared)]

    def row(name: str, values: Sequence[float | None]) -> list[str]:
        return [name, *map(percent, values), *(_difference(values[n], values[first]) for n in compared)]

    classes = records[0]["protocol"]["classes"]
    rows = [row(name, [record["metrics"]["iou"][k] for record in records]) for k, name in enumerate(classes)]
    return columns, [*rows, row("mean IoU", [record["metrics"]["miou"] for record in records])]


def summary_table(records: Sequence[Record]) -> Table:
    """One line a record: mIoU, accuracies, size and cost."""
    columns = ["", "mIoU", "mAcc", "aAcc", "parameters", "MACs"]
    with_latency = any(record.get("latency") for record in records)
    with_training = any(record.get("training") for record in records)
    columns += (["latency"] if with_latency else []) + (["s/step", "training"] if with_training else [])
    rows = []
    for name, record in zip(labels(records), records, strict=True):
        metrics, training = record["metrics"], record.get("training") or {}
        row = [name, percent(metrics["miou"]), percent(metrics["macc"]), percent(metrics["aacc"])]
        row += [_scaled(record.get("parameters"), "M", 1e6), _scaled(record.get("macs"), "G", 1e9)]
        if with_latency:
            row.append(_latency(record.get("latency")))
        if with_training:
            step = training.get("seconds_per_step")
            row += ["–" if step is None else f"{step:.3f}", _duration(training.get("seconds"))]
        rows.append(row)
    return columns, rows


def protocol_line(protocol: Mapping[str, Any]) -> str:
    """How the figures were measured, in one line."""
    scales = ", ".join(f"{scale:g}" for scale in protocol["scales"])
    shown = protocol["mode"]
    if protocol.get("window"):
        window, stride = (f"{height}x{width}" for height, width in (protocol["window"], protocol["stride"]))
        shown = f"{shown} {window}, stride {stride} (height x width),"
    return (
        f"{protocol['dataset']} {protocol['split']}, {protocol['images']} images ({protocol['fingerprint']}), "
        f"{shown} image fitted into {protocol['scale'][0]}x{protocol['scale'][1]}, scales {scales}, "
        f"flip {'on' if protocol['flip'] else 'off'}"
    )


def gap_line(records: Sequence[Record]) -> str | None:
    """Which share of the way from baseline to teacher the distilled student went, where all three are given."""
    by_role = {record.get("role"): record["metrics"]["miou"] for record in records}
    if len(records) != len(by_role) or not {"teacher", "baseline", "distill"} <= by_role.keys():
        return None
    teacher, baseline, distilled = (by_role[role] for role in ("teacher", "baseline", "distill"))
    if teacher is None or baseline is None or distilled is None:
        return None
    gained = f"distilled - baseline = {100 * (distilled - baseline):+.2f} mIoU"
    if teacher <= baseline:
        return f"{gained}; the teacher is not above the baseline"
    return f"{gained}, {100 * (distilled - baseline) / (teacher - baseline):.0f} % of the gap to the teacher"


def to_csv(table: Table) -> str:
    """A table as CSV, with a defence against cells that a spreadsheet would run."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns, rows = table
    for row in (columns, *rows):
        writer.writerow([_csv_cell(cell) for cell in row])
    return stream.getvalue()


def to_html(title: str, records: Sequence[Record]) -> str:
    """One self-contained page with the tables of a comparison."""
    parts = [f"<h1>{_html(title)}</h1>", f"<p>{_html(protocol_line(records[0]['protocol']))}</p>"]
    gap = gap_line(records)
    if gap:
        parts.append(f"<p><strong>{_html(gap)}</strong></p>")
    parts.append(f"<h2>Summary</h2>{_html_table(summary_table(records))}")
    parts.append(f"<h2>IoU of each class, %</h2>{_html_table(class_table(records), kind='sums')}")
    return _PAGE.format(title=_html(title), body="\n".join(parts))


def _html_table(table: Table, kind: str = "plain") -> str:
    columns, rows = table
    head = "".join(f"<th scope=col>{_html(column)}</th>" for column in columns)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{_html(cell)}</td>" for cell in rest)
        lines.append(f"<tr><th scope=row>{_html(first)}</th>{cells}</tr>")
    body = "".join(lines)
    return f"<div class=wide><table class={kind}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"


def _html(text: str) -> str:
    return html.escape(visible(text))


def _csv_cell(text: str) -> str:
    """A figure as it is; a name so that no spreadsheet runs it."""
    shown = visible(text)
    return f"'{shown}" if shown[:1] in _FORMULA and not _FIGURE.fullmatch(shown) else shown


_FORMULA = tuple("=+-@")  # and tab and CR, which are visible by then
_FIGURE = re.compile(r"[+-]?[0-9]+(\.[0-9]+)?")

_PAGE = """<!doctype html>
<html lang=en><head><meta charset=utf-8><meta name=viewport content="width=device-width, initial-scale=1">
<title>{title}</title><style>
:root {{ color-scheme: light dark; --line: #8884; --quiet: #8881; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; }} h2 {{ font-size: 1.1rem; margin-top: 2rem; }}
.wide {{ overflow-x: auto; }} table {{ border-collapse: collapse; font-variant-numeric: tabular-nums; }}
th, td {{ padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }}
th:first-child {{ text-align: left; font-weight: 500; position: sticky; left: 0; background: Canvas; }}
.sums tbody tr:last-child * {{ font-weight: 700; }}
tbody tr:nth-child(even) {{ background: var(--quiet); }}
</style></head><body>
{body}
</body></html>
"""


def _difference(value: float | None, other: float | None) -> str:
    return "–" if value is None or other is None else f"{100 * (value - other):+.2f}"


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _scaled(value: float | None, unit: str, size: float) -> str:
    return "–" if value is None else f"{value / size:.2f} {unit}"


def _latency(value: Mapping[str, float] | None) -> str:
    return "–" if not value else f"{value['median_ms']:.0f} ms ({value['low_ms']:.0f}–{value['high_ms']:.0f})"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def _short(value: object) -> str:
    text = visible(value)
    return text if len(text) <= 60 else text[:57] + "…"
