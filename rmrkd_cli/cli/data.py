"""`rmrkd data check` and `rmrkd data prepare`"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rmrkd_cli.cli.options import DataRoot, JsonOut, check_json_out, dataset_name, write_json
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.terminal.sanitize import escape_control

if TYPE_CHECKING:
    from rmrkd_cli.data.check import DatasetReport, SplitReport
    from rmrkd_cli.data.check.findings import Group
    from rmrkd_cli.data.datasets import DatasetInfo
    from rmrkd_cli.data.prepare.pipeline import Outcome

_SHOWN = 5  # findings of one kind in a terminal; JSON has all
_NAMED = 10  # classes in a line

data_app = typer.Typer(no_args_is_help=True, help="Check a data set, or make the label maps it does not come with.")


def _usable() -> int:
    from rmrkd_cli.data.worker_pool import default_workers

    return default_workers()


Workers = Annotated[
    int | None, typer.Option("--workers", min=1, max=32, metavar="N", help="Processes. (default: one a CPU)")
]


@data_app.command("check")
def check_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="A data set's name, or `custom` with --preset.")],
    data_root: DataRoot = None,
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME|FILE", help="Take data set, root and classes from it.")
    ] = None,
    split: Annotated[
        list[str] | None, typer.Option("--split", metavar="NAME", help="Only this one; repeatable. (default: all)")
    ] = None,
    workers: Workers = None,
    json_out: JsonOut = None,
) -> None:
    """Find every missing, damaged or wrong file of a data set, and count the pixels of its classes."""
    from rmrkd_cli.data.check import check_dataset
    from rmrkd_cli.data.check.findings import select_errors
    from rmrkd_cli.terminal import console

    check_json_out(json_out)
    info = _info(dataset, data_root, preset)
    with console.screen() as shown:
        meter: Any = None

        def on_progress(done: int, total: int) -> None:
            nonlocal meter
            meter = meter or shown.meter(f"check {info.name}", total)
            if meter is not None:
                meter.update(done, f"{done / max(total, 1):.0%}")

        report = check_dataset(info, split or (), workers=workers or _usable(), on_progress=on_progress)
    if json_out is not None:
        write_json(_as_json(report), json_out)
    if json_out != "-":
        _show(report)
    if wrong := select_errors(report.findings):
        what = "1 problem" if len(wrong) == 1 else f"{len(wrong)} problems"
        raise RmrkdError(f"{what} in `{info.root}`{_tree(report, wrong)}", _next_step(wrong))


@data_app.command("prepare")
def prepare_command(
    dataset: Annotated[str, typer.Argument(metavar="DATASET", help="cityscapes or voc12aug; the others need nothing.")],
    data_root: DataRoot = None,
    sbd: Annotated[
        Path | None, typer.Option("--sbd", metavar="DIR", help="voc12aug: SBD's folder benchmark_RELEASE.")
    ] = None,
    workers: Workers = None,
) -> None:
    """Make the label maps that Cityscapes and VOC 2012 + SBD do not come with; nothing is overwritten."""
    from rmrkd_cli.terminal import console

    info = _info(_preparable(dataset), data_root, None)
    if info.name == "voc12aug" and sbd is None:
        raise RmrkdError("voc12aug is made from SBD", "--sbd DIR names its folder benchmark_RELEASE")
    if info.name != "voc12aug" and sbd is not None:
        raise RmrkdError(f"--sbd is for voc12aug, not for {info.name}", "leave it out")
    with console.screen() as shown:
        meters: dict[str, Any] = {}

        def on_progress(what: str, done: int, total: int) -> None:
            if what not in meters:
                meters[what] = shown.meter(f"{what} {info.name}", total)
            if meters[what] is not None:
                meters[what].update(done, f"{done / max(total, 1):.0%}")

        outcome = _prepared(info, sbd, workers or _usable(), on_progress)
    _show_outcome(outcome, info)


def _preparable(dataset: str) -> str:
    name = str(dataset_name(dataset))
    if name not in ("cityscapes", "voc12aug"):
        raise RmrkdError(f"`{name}` needs no preparation", f"rmrkd data check {name}")
    return name


def _prepared(info: DatasetInfo, sbd: Path | None, workers: int, on_progress: Any) -> Outcome:
    from rmrkd_cli.data.prepare.cityscapes import prepare_cityscapes
    from rmrkd_cli.data.prepare.voc12aug import prepare_voc12aug

    try:
        if info.name == "cityscapes":
            return prepare_cityscapes(info, workers, on_progress)
        return prepare_voc12aug(info.root, Path(str(sbd)), workers, on_progress)
    except OSError as error:
        where = f" `{error.filename}`" if error.filename else ""
        raise RunError(
            f"cannot write{where}: {error.strerror or error}",
            "what is written is whole: make room or give permission, and the same command goes on",
        ) from error


def _show_outcome(outcome: Outcome, info: DatasetInfo) -> None:
    from rmrkd_cli.terminal import console

    counts = ", ".join(f"{count} {split}" for split, count in outcome.images.items())
    console.write(f"{outcome.counts['written']} files written, {outcome.counts['kept']} already there, all read again")
    console.write(f"images: {counts}")
    for notice in outcome.notices:
        console.say(f"note: {notice}")
    next_step = f"rmrkd data check {info.name} --data-root {outcome.root}"
    if outcome.problems:
        lines = [escape_control(f"  `{path}` {text}") for path, text in outcome.problems[:_SHOWN]]
        lines += [f"  and {len(outcome.problems) - _SHOWN} more"] if outcome.problems[_SHOWN:] else []
        what = "1 problem" if len(outcome.problems) == 1 else f"{len(outcome.problems)} problems"
        raise RmrkdError(
            f"{what} with `{outcome.root}`:\n" + "\n".join(lines),
            "files that were there are never overwritten: move those named away (or mend the source), and the same "
            "command makes them again",
        )
    console.write_line(f"next: {next_step}")


def _info(dataset: str, data_root: str | None, preset: str | None) -> DatasetInfo:
    """The data set by its name, or as a preset describes it."""
    from rmrkd_cli.data.datasets import dataset_info
    from rmrkd_cli.presets.loader import dataset_preset, load_preset

    name = dataset_name(dataset) or dataset
    if preset is not None:
        given = load_preset(preset)
        if given.dataset != name:
            raise RmrkdError(
                f"preset `{preset}` is for `{given.dataset}`, not for `{name}`",
                f"rmrkd data check {given.dataset} --preset {preset}",
            )
    elif name == "custom":
        raise RmrkdError("`custom` is described by a preset", "rmrkd data check custom --preset FILE")
    else:
        given = dataset_preset(name)
    data = given.data if data_root is None else given.data.model_copy(update={"root": data_root})
    return dataset_info(given.model_copy(update={"data": data}))


def _tree(report: DatasetReport, wrong: list[Any]) -> str:
    """How the data set should lie, where parts of it are missing."""
    from rmrkd_cli.data.samples import expected_tree

    splits = list(dict.fromkeys(finding.split for finding in wrong if finding.kind == "missing-part" and finding.split))
    return f"; the layout of `{report.info.name}` is\n{expected_tree(report.info, splits)}" if splits else ""


def _next_step(wrong: list[Any]) -> str:
    fixes = {finding.fix for finding in wrong}
    first = fixes.pop() if len(fixes) == 1 else "each finding above shows its fix"
    return f"{first}; then run the check again"


def _show(report: DatasetReport) -> None:
    from rmrkd_cli.data.check.findings import group_findings
    from rmrkd_cli.terminal import console

    if report.splits:
        columns, rows = _share_table(report)
        console.show_table("Pixels of each class, %", columns, rows, _size_lines(report))
        console.write("")
    root, groups = str(report.info.root), group_findings(report.findings)
    if groups:
        console.write(f"Below {escape_control(root)}:\n")
    for group in groups:
        console.write("\n".join(escape_control(line) for line in _group_lines(group, root)) + "\n")


def _group_lines(group: Group, root: str) -> list[str]:
    """Return the files with their findings, and the fix below the files that share it."""
    from rmrkd_cli.data.check.findings import TITLES

    lines = [f"{group.severity}: {TITLES[group.kind]} ({len(group.findings)})"]
    if group.kind == "absent-class":
        return [*lines, *_absent_lines(group)]
    for fix, members in list(group.by_fix().items())[:_SHOWN]:
        lines += [f"  {finding.file} {finding.text}".replace(f"{root}/", "") for finding in members[:_SHOWN]]
        left = len(members) - _SHOWN
        lines += [f"  and {left} more, all of them with --json FILE"] if left > 0 else []
        lines += [f"    -> {fix}"] if fix else []
    return lines


def _absent_lines(group: Group) -> list[str]:
    """A line a split, since a small split lacks many."""
    names: dict[str, list[str]] = {}
    for finding in group.findings:
        names.setdefault(finding.split, []).append(finding.text.split("`")[1])
    return [
        f"  {split}: {', '.join(absent[:_NAMED])}" + (f" and {len(absent) - _NAMED} more" if absent[_NAMED:] else "")
        for split, absent in names.items()
    ]


def _share_table(report: DatasetReport) -> tuple[list[str], list[list[str]]]:
    """Classes as rows, splits as columns; a class that never occurs is a dash."""
    rows = []
    for index, name in enumerate(report.info.classes):
        rows.append([name, *(_share(split, split.pixels[index]) for split in report.splits.values())])
    rows.append(["(ignored)", *(_share(split, split.ignored) for split in report.splits.values())])
    rows.append(["pairs", *(str(split.pairs) for split in report.splits.values())])
    return ["class", *report.splits], rows


def _share(split: SplitReport, pixels: int) -> str:
    total = sum(split.pixels) + split.ignored
    if not pixels:
        return "–"
    share = 100 * pixels / total
    return f"{share:.2f}" if share >= 0.005 else "<0.01"


def _size_lines(report: DatasetReport) -> list[str]:
    lines = []
    for name, split in report.splits.items():
        if not split.sizes:
            continue
        heights, widths = zip(*split.sizes, strict=True)
        smallest, largest = f"{min(widths)}x{min(heights)}", f"{max(widths)}x{max(heights)}"
        spread = smallest if smallest == largest else f"{smallest} to {largest} (width x height)"
        lines.append(f"{name}: {split.pairs} pairs, images of {spread}")
    return lines


def _as_json(report: DatasetReport) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "format": 2,
        "dataset": report.info.name,
        "root": str(report.info.root),
        "pairs_read": report.pairs_read,
        "splits": {name: _split_json(report, split) for name, split in report.splits.items()},
        "findings": [asdict(finding) for finding in report.findings],
    }


def _split_json(report: DatasetReport, split: SplitReport) -> dict[str, Any]:
    total = sum(split.pixels) + split.ignored
    return {
        "pairs": split.pairs,
        "sizes": [{"width": w, "height": h, "images": count} for (h, w), count in sorted(split.sizes.items())],
        "pixels": dict(zip(report.info.classes, split.pixels, strict=True)),
        "ignored": split.ignored,
        "share": {name: p / total if total else 0.0 for name, p in zip(report.info.classes, split.pixels, strict=True)},
    }
