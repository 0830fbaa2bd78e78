"""`rmrkd train`"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rmrkd_cli.api.train import prepare, train_preset
from rmrkd_cli.api.train_settings import check_options, chosen_lengths, code_files, load_changed_preset
from rmrkd_cli.cli.command import expand_options
from rmrkd_cli.cli.train_options import TrainOptions
from rmrkd_cli.cli.train_values import train_settings
from rmrkd_cli.errors import RmrkdError

if TYPE_CHECKING:
    from rmrkd_cli.api.train_settings import TrainSettings
    from rmrkd_cli.presets.schema import Preset
    from rmrkd_cli.results.record import Record


@expand_options
def train_command(options: TrainOptions) -> None:
    """Train a teacher, a baseline student, a distilled student, or all of them and compare.

    Running the same command again stops instead of overwriting. Add --resume to continue, or --fresh to start over.

    Examples:
        rmrkd train --preset demo
        rmrkd train --preset psp101-psp18-city --role all --data-root data/cityscapes --gpus 8
    """
    from rmrkd_cli.presets.loader import to_yaml
    from rmrkd_cli.terminal import console

    settings = train_settings(options)
    if options.print_config:
        check_options(settings)
        console.print_text(to_yaml(load_changed_preset(settings)))
        return
    preset = prepare(settings)
    if options.dry_run:
        _print_dry_run(preset, settings)
    else:
        _print_results(train_preset(preset, settings), preset)


def _print_dry_run(preset: Preset, options: TrainSettings) -> None:
    from rmrkd_cli.networks.hub import NotDownloadedError, no_downloads
    from rmrkd_cli.terminal import console
    from rmrkd_cli.training.dry_run import report_missing_network
    from rmrkd_cli.training.trackers.names import parse_trackers, require_trackers

    require_trackers(parse_trackers(options.track))
    with no_downloads():
        try:
            for line in _dry_run(preset, options):
                console.print_line(line)
        except NotDownloadedError as missing:
            for line in report_missing_network(preset, missing):
                console.print_line(line)


def _dry_run(preset: Preset, options: TrainSettings) -> Iterator[str]:
    """Yield the lines of `train --dry-run`."""
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.terminal import messages
    from rmrkd_cli.training.dry_run import report_dry_run
    from rmrkd_cli.training.kept_length import keep_lengths
    from rmrkd_cli.training.plan import plan_runs

    device, _ = choose_device(options.device, None)
    plans = plan_runs(preset, options.work_dir, options.seeds)
    if options.resume:
        plans = keep_lengths(plans, chosen_lengths(preset, options), messages.log)
    yield from report_dry_run(
        plans[0], device, code_files(options), resume=options.resume, fresh=options.fresh, force=options.force,
        settings=list(options.settings), progress=messages.log,
    )  # fmt: skip


def _print_results(records: list[Record], preset: Preset) -> None:
    """Print the comparison of all roles and seeds, and their checkpoints."""
    if not records:
        return
    from rmrkd_cli.comparison.protocol import check_same_protocol
    from rmrkd_cli.terminal import messages

    try:
        check_same_protocol(records)
    except RmrkdError as error:  # the images changed between a run and its resumption
        students = [str(record["checkpoint"]) for record in records]
        messages.log(error.message)
        messages.log(f"to measure them again: {shlex.join(['rmrkd', 'eval', *students])}")
    else:
        _print_comparison(records, preset)
    for record in records:
        messages.log(f"{record['role']}: {record['checkpoint']}")


def _print_comparison(records: list[Record], preset: Preset) -> None:
    from rmrkd_cli.comparison.compare import compare
    from rmrkd_cli.presets.schema import OWN_METHOD
    from rmrkd_cli.report import tables
    from rmrkd_cli.results.protocol import protocol_line
    from rmrkd_cli.terminal import console

    comparison = compare(records)
    columns, rows = tables.summary_table(comparison.groups)
    notes = [protocol_line(comparison.protocol), *tables.summary_lines(comparison)]
    if preset.paper is not None and preset.method == OWN_METHOD:
        notes.append(f"paper: baseline {preset.paper.baseline:.2f}, distilled {preset.paper.distilled:.2f}")
    if len(comparison.groups) > 1:
        console.print_numbers(
            "IoU of each class, %", *tables.class_table(comparison), bold_last=not comparison.warnings
        )
    console.print_numbers(preset.title or preset.name, columns, rows, notes)
