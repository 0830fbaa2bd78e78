"""Print the report of `rmrkd data check`, or return it for JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from rmrkd_cli.data.check import DatasetReport, SplitReport
from rmrkd_cli.data.check.findings import TITLES, Group, group_findings
from rmrkd_cli.terminal import console
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.terminal.text import plural

_SHOWN = 5  # findings of one kind; JSON has all of them
_NAMED_CLASSES = 10  # in a line


def print_report(report: DatasetReport) -> None:
    """Print the pixels of each class and the findings."""
    if report.splits:
        columns, rows = _pixel_table(report)
        console.print_table("Pixels of each class, %", columns, rows, _size_lines(report))
        console.print_line("")
    root, groups = str(report.info.root), group_findings(report.findings)
    if groups:
        console.print_text(f"Below {escape_control(root)}:\n")
    else:
        console.print_line("no problems found")
    for group in groups:
        console.print_text("\n".join(escape_control(line) for line in _group_lines(group, root)) + "\n\n")


def report_document(report: DatasetReport) -> dict[str, Any]:
    """Return the report with all findings, for JSON."""
    return {
        "format": 2,
        "dataset": report.info.name,
        "root": str(report.info.root),
        "pairs_read": report.pairs_read,
        "splits": {name: _split_document(report, split) for name, split in report.splits.items()},
        "findings": [asdict(finding) for finding in report.findings],
    }


def _split_document(report: DatasetReport, split: SplitReport) -> dict[str, Any]:
    sizes = [{"width": w, "height": h, "images": count} for (h, w), count in sorted(split.sizes.items())]
    if not split.labelled:
        return {"images": split.pairs, "sizes": sizes}
    total = sum(split.pixels) + split.ignored
    pixels = dict(zip(report.info.classes, split.pixels, strict=True))
    return {
        "pairs": split.pairs,
        "sizes": sizes,
        "pixels": pixels,
        "ignored": split.ignored,
        "share": {name: count / total if total else 0.0 for name, count in pixels.items()},
    }


def _group_lines(group: Group, root: str) -> list[str]:
    """Return the first findings of one kind with their files below the root, and each fix below its findings."""
    lines = [f"{group.severity}: {TITLES[group.kind]} ({len(group.findings)})"]
    if group.kind == "absent-class":
        return [*lines, *_absent_class_lines(group)]
    for fix, findings in list(group.by_fix().items())[:_SHOWN]:
        lines += [f"  {finding.file} {finding.text}".replace(f"{root}/", "") for finding in findings[:_SHOWN]]
        more = len(findings) - _SHOWN
        lines += [f"  and {more} more, all of them with --json FILE"] if more > 0 else []
        lines += [f"    fix: {fix}"] if fix else []
    return lines


def _absent_class_lines(group: Group) -> list[str]:
    """Return one line for each split, because many classes can be missing in a small split."""
    names: dict[str, list[str]] = {}
    for finding in group.findings:
        names.setdefault(finding.split, []).append(finding.text.split("`")[1])
    return [
        f"  {split}: {', '.join(absent[:_NAMED_CLASSES])}"
        + (f" and {len(absent) - _NAMED_CLASSES} more" if absent[_NAMED_CLASSES:] else "")
        for split, absent in names.items()
    ]


def _pixel_table(report: DatasetReport) -> tuple[list[str], list[list[str]]]:
    """Return the pixels in percent, with classes as rows and splits with label maps as columns."""
    labelled = {name: split for name, split in report.splits.items() if split.labelled}
    splits = labelled.values()
    rows = [
        [name, *(_percent(split, split.pixels[index]) for split in splits)]
        for index, name in enumerate(report.info.classes)
    ]
    rows.append(["(ignored)", *(_percent(split, split.ignored) for split in splits)])
    rows.append(["pairs", *(str(split.pairs) for split in splits)])
    return ["class", *labelled], rows


def _percent(split: SplitReport, pixels: int) -> str:
    """Return the share of a split's pixels in percent: `<0.01` if it rounds to zero, a dash if it is zero."""
    if not pixels:
        return "–"
    share = 100 * pixels / (sum(split.pixels) + split.ignored)
    return f"{share:.2f}" if share >= 0.005 else "<0.01"


def _size_lines(report: DatasetReport) -> list[str]:
    lines = []
    for name, split in report.splits.items():
        if not split.sizes:
            continue
        heights, widths = zip(*split.sizes, strict=True)
        smallest, largest = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
        sizes = smallest if smallest == largest else f"{smallest} to {largest} (width x height)"
        count = (
            f"{split.pairs} pairs, images" if split.labelled else f"{plural(split.pairs, 'image')} without label maps,"
        )
        lines.append(f"{name}: {count} of {sizes}")
    return lines
