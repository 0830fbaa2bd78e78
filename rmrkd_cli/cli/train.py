"""`rmrkd train`"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from rmrkd_cli.cli.command import expand_options
from rmrkd_cli.cli.options import Device
from rmrkd_cli.cli.train_options import TrainOptions
from rmrkd_cli.cli.train_overrides import check_options, chosen_lengths, code_files, load_changed_preset, parse_seeds
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.user_code import allow_files

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
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

    check_options(options)
    preset = load_changed_preset(options)
    if options.print_config:
        console.print_text(to_yaml(preset))
        return
    allow_files(code_files(options))
    require_mmseg()
    from rmrkd_cli.distillation.custom_loss import check_named

    if preset.role in ("distill", "all"):
        check_named(preset, code_files(options))
    if options.dry_run:
        _print_dry_run(preset, options)
    else:
        _print_results(_train(preset, options), preset)


def _print_dry_run(preset: Preset, options: TrainOptions) -> None:
    from rmrkd_cli.networks.hub import NotDownloadedError, no_downloads
    from rmrkd_cli.terminal import console
    from rmrkd_cli.training.dry_run import report_missing_network

    with no_downloads():
        try:
            for line in _dry_run(preset, options):
                console.print_line(line)
        except NotDownloadedError as missing:
            for line in report_missing_network(preset, missing):
                console.print_line(line)


def _dry_run(preset: Preset, options: TrainOptions) -> Iterator[str]:
    """Yield the lines of `train --dry-run`."""
    from rmrkd_cli.distributed.device import choose_device
    from rmrkd_cli.terminal import console
    from rmrkd_cli.training.dry_run import report_dry_run
    from rmrkd_cli.training.kept_length import keep_lengths
    from rmrkd_cli.training.plan import plan_runs

    device, _ = choose_device(options.device.value, None)
    plans = plan_runs(preset, options.work_dir, parse_seeds(options.seeds))
    if options.resume:
        plans = keep_lengths(plans, chosen_lengths(preset, options), console.log)
    yield from report_dry_run(
        plans[0], device, code_files(options), resume=options.resume, fresh=options.fresh, force=options.force,
        settings=options.settings or [], progress=console.log,
    )  # fmt: skip


def _train(preset: Preset, options: TrainOptions) -> list[Record]:
    """Train the preset on the chosen devices and machines. Return no records on machines other than the first."""
    from rmrkd_cli.data import loader_server

    if {options.gpus, options.nodes} <= {None, 1}:  # before this process imports torch, which takes as long
        loader_server.start_loader_server(preset.schedule.workers)
    from rmrkd_cli.training.run import train

    device, cluster = _choose_devices(options)
    return train(
        preset, options.work_dir, device, cluster, seeds=parse_seeds(options.seeds), code=code_files(options),
        resume=options.resume, fresh=options.fresh, force=options.force, chosen_lengths=chosen_lengths(preset, options),
    )  # fmt: skip


def _choose_devices(options: TrainOptions) -> tuple[str, Cluster]:
    """Return the device kind, and the workers: another launcher's, else Slurm's, else those of the options."""
    from rmrkd_cli.distributed.cluster import external_cluster, resolve_cluster
    from rmrkd_cli.distributed.coordination import current_coordinator
    from rmrkd_cli.distributed.device import choose_device, choose_external_device
    from rmrkd_cli.distributed.slurm import read_slurm_step

    machines: dict[str, Any] = {
        "nodes": options.nodes, "node_rank": options.node_rank, "rdzv_endpoint": options.rdzv_endpoint,
        "max_restarts": options.max_restarts,
    }  # fmt: skip
    if (coordinator := current_coordinator()) is not None:
        cluster = external_cluster(coordinator, gpus=options.gpus, **machines)
        if options.fresh and coordinator.restarted:
            raise RmrkdError(
                "--fresh: the launcher has restarted the workers, and --fresh would drop what this run has trained",
                "give --resume instead of --fresh where a launcher may restart workers",
            )
        return choose_external_device(options.device.value, coordinator.local_size), cluster
    slurm, gpus = read_slurm_step(), options.gpus
    if slurm is not None and gpus is None and options.device is not Device.cpu:
        gpus = slurm.gpus
    device, workers = choose_device(options.device.value, gpus)
    return device, resolve_cluster(workers=workers, slurm=slurm, **machines)


def _print_results(records: list[Record], preset: Preset) -> None:
    """Print the comparison of all roles and seeds, and their checkpoints."""
    if not records:
        return
    from rmrkd_cli.comparison.protocol import check_same_protocol
    from rmrkd_cli.terminal import console

    try:
        check_same_protocol(records)
    except RmrkdError as error:  # the images changed between a run and its resumption
        students = [str(record["checkpoint"]) for record in records]
        console.log(error.message)
        console.log(f"to measure them again: {shlex.join(['rmrkd', 'eval', *students])}")
    else:
        _print_comparison(records, preset)
    for record in records:
        console.log(f"{record['role']}: {record['checkpoint']}")


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
        console.print_table("IoU of each class, %", *tables.class_table(comparison), bold_last=not comparison.warnings)
    console.print_table(preset.title or preset.name, columns, rows, notes)
