"""Write GPU.md from the rows of the parts."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.gpu_parts.common import Options
from benchmarks.report import amount, figure, table

Rows = list[dict[str, Any]]
_WIDTH = 116
_NORM = "gradient norm"


@dataclass(frozen=True)
class PartResult:
    """How a part ended, and the rows that it recorded until then."""

    name: str
    ending: str
    seconds: float
    rows: Rows


def write_page(machine: dict[str, str], results: Sequence[PartResult], options: Options) -> str:
    """Return the whole page as Markdown."""
    command = "python -m benchmarks.gpu" + " --device cpu" * (options.device == "cpu") + " --toy" * options.toy
    measured = options.device == "cuda" and not options.toy
    title = "# One GPU" if measured else "# A check that all parts run: no measurement of a GPU"
    parts = [title, f"Written by `uv run {command}`.", "\n".join(f"- {key}: {text}" for key, text in machine.items())]
    parts.append(table(("part", "end", "seconds"), [(r.name, r.ending, f"{r.seconds:.0f}") for r in results]))
    rates = _rates(results)
    for result in results:
        heading, about, write = _SECTIONS[result.name]
        parts += [f"## {heading}", textwrap.fill(about, _WIDTH, break_on_hyphens=False)]
        parts.append(write(result.rows) if result.rows else f"No figures: {result.ending}.")
        if result.name == "loader" and rates:
            parts.append(rates)
    return "\n\n".join(parts) + "\n"


def _losses(rows: Rows) -> str:
    """One line for each loss of each preset or method: the CPU's value, and relative differences from it."""
    cases: dict[tuple[str, str | None], dict[str, Any]] = {}
    precisions: list[str] = []
    for row in rows:
        name = row["precision"] if row["device"] != "cpu" or row["precision"] != "fp32" else "CPU"
        cases.setdefault((row["preset"], row["method"]), {})[name] = row
        precisions += [name] if name != "CPU" and name not in precisions else []
    lines = []
    for (preset, method), found in cases.items():
        if "CPU" not in found:
            continue
        values = {name: {**row["losses"], _NORM: row[_NORM]} for name, row in found.items()}
        for name, expected in values["CPU"].items():
            others = [_relative(values[each][name], expected) if each in found else "–" for each in precisions]
            lines.append((f"{preset} {method}" if method else preset, name, f"{expected:.6g}", *others))
    return table(("preset", "loss", "CPU fp32", *precisions), lines)


def _relative(value: float, expected: float) -> str:
    return f"{abs(value - expected) / max(abs(expected), 1e-30):.1e}"


def _training(rows: Rows) -> str:
    lines = []
    for row in rows:
        if "error" in row:
            lines.append((row["preset"], row["precision"], *["–"] * 5, row["error"]))
            continue
        falls = "yes" if row["finite"] and row["last total"] < row["first total"] else "**no**"
        losses = [f"{row[f'first {name}']:.3g} → {row[f'last {name}']:.3g}" for name in ("ce", "total")]
        waits = "–" if row["waits"] is None else str(row["waits"])
        lines.append(
            (row["preset"], row["precision"], *losses, figure(row["steps/s"]), _memory(row), waits, falls)
        )  # fmt: skip
    header = (
        "preset",
        "precision",
        "cross-entropy",
        "total loss",
        "steps/s",
        "peak memory",
        "waits a step",
        "total falls",
    )
    return table(header, lines)


def _released(rows: Rows) -> str:
    found = {(row["what"], row["precision"], row["side"]): row for row in rows}
    lines = []
    for (what, precision, side), row in found.items():
        if side != "rmrkd":
            continue
        plain = found.get((what, precision, "plain"), {"error": "not measured"})
        times, memory = ([each(row), each(plain)] for each in (_seconds, _memory))
        lines.append((f"{what}, {precision}", *times, _ratio(plain, row, "seconds"), *memory))
    return table(("", "rmrkd", "released", "ratio", "rmrkd's peak", "released peak"), lines)


def _ratio(plain: dict[str, Any], ours: dict[str, Any], key: str) -> str:
    return figure(plain[key] / ours[key]) if key in plain and key in ours else "–"


def _seconds(row: dict[str, Any]) -> str:
    if "seconds" not in row:
        return str(row["error"])
    return f"{amount(row['seconds'], 's')} ({figure(1 / row['seconds'])}/s)"


def _memory(row: dict[str, Any]) -> str:
    return "–" if row.get("peak bytes") is None else amount(row["peak bytes"], "B")


def _runs(rows: Rows) -> str:
    lines = []
    for row in rows:
        killed = f", killed after iteration {row['killed after iteration']}" if "killed after iteration" in row else ""
        lines.append((row["what"] + killed, _outcome(row)))
    return table(("run", "result"), lines)


def _outcome(row: dict[str, Any]) -> str:
    if "error" in row:
        return str(row["error"])
    if "tensors" not in row:
        falls = f"total loss {row['first total']:.4g} → {row['last total']:.4g} in {row['iterations']} iterations"
        return falls if row["finite"] else "a loss is infinite or NaN"
    if row["different"] == 0:
        return f"all {row['tensors']} tensors are equal bit for bit"
    return f"{row['different']} of {row['tensors']} tensors differ, by {row['largest difference']:.2g} at most"


def _ranks(rows: Rows) -> str:
    row = rows[0]
    if "error" in row:
        return str(row["error"])
    return (
        f"{row['gradients']} gradients; the largest relative difference is "
        f"{row['largest relative difference']:.1e}, of `{row['of']}`."
    )


def _evaluation(rows: Rows) -> str:
    lines = []
    for row in rows:
        miou = [f"{100 * row[key]:.3f}" for key in ("cpu miou", "miou")]
        name = f"{row['device']}, {row['precision']}, batch {row['batch size']}"
        lines.append((name, str(row["different"]), str(row["pixels"]), *miou))
    return table(("evaluation", "other pixels", "of", "mIoU on the CPU", "mIoU"), lines)


def _loader(rows: Rows) -> str:
    lines = [(str(row["processes"]), figure(row["images/s"]), f"of {row['cores']} cores") for row in rows]
    return table(("processes", "images/s", "machine"), lines)


def _rates(results: Sequence[PartResult]) -> str:
    """Return what the steps of part `training` need."""
    rows = [row for result in results if result.name == "training" for row in result.rows if "steps/s" in row]
    needs = [f"{row['preset']} {row['precision']} {figure(row['steps/s'] * row['batch'][0])}" for row in rows]
    text = f"Images a second that the steps above take: {', '.join(needs)}."
    return textwrap.fill(text, _WIDTH, break_on_hyphens=False) if needs else ""


_SECTIONS: dict[str, tuple[str, str, Callable[[Rows], str]]] = {
    "losses": (
        "Losses of the first step",
        "Each loss, and the norm of all gradients, at 128x128 with batch 2. All start from the same random weights, "
        "without dropout and with the same mask of MGD. The value is the CPU's in float32. The others are relative "
        "differences from it. `fp32` is without TF32, `tf32` with it.",
        _losses,
    ),
    "training": (
        "Twenty steps of each preset",
        "Random weights, and one random batch of the preset's crop and batch size. `steps/s` is over the last 15. "
        "`waits a step` counts the reports of torch's sync debug mode. bf16 and fp16 use TF32 for float32 products.",
        _training,
    ),
    "released": (
        "Beside the released losses",
        "A step of `psp101-psp18-city` as `rmrkd train` takes it, and the released step rebuilt: a loop over classes, "
        "dense convolutions of MGD, contiguous maps. `loss` is RMRKD's loss alone, forward and backward: 19 classes, "
        "2048 channels, maps of 64x64, batch 2.",
        _released,
    ),
    "runs": (
        "Whole runs under `--deterministic`",
        "`rmrkd train --preset demo` with a random teacher. Weights and optimizer of the last checkpoint are compared "
        "with those of an uninterrupted run.",
        _runs,
    ),
    "ranks": (
        "Two ranks on one device",
        "Gradients of two ranks with two images each, averaged by DDP over gloo, beside one rank with all four images. "
        "On a GPU they use SyncBN.",
        _ranks,
    ),
    "evaluation": (
        "Evaluation",
        "The student of the uninterrupted run on the demo's validation images, beside the CPU with batches of one.",
        _evaluation,
    ),
    "loader": (
        "Loader",
        "Training samples from 2048x1024 PNG files without a cache, in batches of 2.",
        _loader,
    ),
}
