"""Evaluate checkpoint files: one result record per checkpoint."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.data import loader_server
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import report_lost_loaders
from rmrkd_cli.data.loader_processes import count_loader_processes, evaluation_bytes
from rmrkd_cli.data.samples import Sample, data_check_command, have_labels
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed import launcher
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.distributed.process_group import distributed_context
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import (
    check_num_classes,
    load_checkpoint_network,
    resolve_dataset,
    select_samples,
)
from rmrkd_cli.evaluation.evaluator import evaluate, make_protocol
from rmrkd_cli.evaluation.flops import count_parameters_and_macs
from rmrkd_cli.evaluation.precision import EVALUATION_TF32, evaluation_settings, float32_precision
from rmrkd_cli.evaluation.prediction_files import PredictionFiles
from rmrkd_cli.evaluation.result_record import make_record
from rmrkd_cli.evaluation.windows import choose_window
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.presets.user_code import allowed_files
from rmrkd_cli.results.protocol import protocol_line
from rmrkd_cli.results.record import read_record, to_json
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.storage.folder_contents import check_checkpoint_file, network_path
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.terminal.live_display import live_display
from rmrkd_cli.terminal.messages import debug

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.results.record import Record


def evaluate_files(
    checkpoints: Sequence[Path],
    cluster: Cluster,
    *,
    dataset: str | None = None,
    data_root: str | None = None,
    split: str = "val",
    preset: dict[str, Any] | None = None,
    device: str = "cpu",
    mode: str = "whole",
    crop: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    flip: bool = False,
    scales: tuple[float, ...] = (1.0,),
    batch_size: int | None = None,
    workers: int | None = None,
    save_predictions: Path | None = None,
    label_ids: bool | None = None,
    max_images: int | None = None,
    allow_partial: bool = False,
    require_labels: bool = False,
    file_input: dict[str, Any] | None = None,
    boundary_width: float | None = None,
) -> list[Record]:
    """Evaluate checkpoints one after the other and return one result record per checkpoint.

    Progress and notes go to stderr. A split without labels gives no record, only prediction files.

    Args:
        checkpoints: Files of any kind: student, distiller, teacher or released weights, or folders of `export --hub`.
        cluster: The worker processes that share the images of each checkpoint.
        dataset: A built-in data set; None: the one in the checkpoint or preset.
        data_root: Folder of the data set; None: the one in the checkpoint or preset.
        split: "val", "test" or "train".
        preset: A preset as plain data (`Preset.model_dump`), for checkpoints that do not describe their network.
        device: "cpu" or "cuda".
        mode: "whole", or "slide" for a sliding window.
        crop, stride: (height, width) of the window and of its stride in pixels; None: as in the checkpoint, else the
            training crop and two thirds of it.
        flip: Average with the mirrored image.
        scales: Average over images at these factors of the image size.
        batch_size: Images of equal size per batch and worker; None: 1 on CPUs, up to 4 on GPUs.
        workers: Loader processes of each worker; None: from the machine's cores.
        save_predictions: Write label PNGs into this new folder; several checkpoints get a subfolder each.
        label_ids: Write the label ids of the test server; None: for the test split of data sets that have them.
        max_images: Use only the first images.
        allow_partial: Load the matching tensors of a checkpoint that does not match its network.
        require_labels: Stop if no image has labels.
        file_input: For ONNX and TorchScript files: `input`, `output` and `classes` as in a preset's teacher.
        boundary_width: Measure the boundary IoU too, with boundaries of this share of the image's diagonal; None: not.

    Raises:
        RmrkdError: A file is missing or unusable, an option does not apply, or mmsegmentation is not installed.
        RunError: A worker failed.
    """
    checkpoints = [network_path(path) for path in checkpoints]
    for file in checkpoints:
        check_checkpoint_file(file)
    require_mmseg()
    if cluster.runs_here:
        loader_server.start_loader_server(workers)
    folders = _prediction_folders(checkpoints, save_predictions)
    records = []
    for file in checkpoints:
        with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder:
            output = Path(folder) / "result.json"
            job = EvalJob(
                checkpoint=str(file), output=str(output), save_predictions=folders[file], dataset=dataset,
                data_root=data_root, split=split, preset=preset, device=device, mode=mode, crop=crop, stride=stride,
                flip=flip, scales=scales, batch_size=batch_size, workers=workers, label_ids=label_ids,
                max_images=max_images, allow_partial=allow_partial, require_labels=require_labels,
                code=allowed_files(), file_input=file_input, boundary_width=boundary_width,
            )  # fmt: skip
            launcher.execute(job, cluster)
            if output.exists():
                record = read_record(output)
                records.append({**record, **_training_facts(file, record)})
    return records


def run_evaluation(job: EvalJob) -> None:
    """Run one evaluation in a worker process; rank 0 writes the record to `job.output` if there are labels."""
    preset = Preset.model_validate(job.preset) if job.preset is not None else None
    with (
        report_lost_loaders(),
        distributed_context(job.device) as dist_ctx,
        live_display(quiet=not dist_ctx.is_rank0) as display,
        float32_precision(EVALUATION_TF32),
    ):
        model = load_checkpoint_network(
            job.checkpoint, preset, job.device, allow_partial=job.allow_partial, file_input=job.file_input,
            dataset=job.dataset,
        )  # fmt: skip
        if isinstance(model.network, FileNetwork):
            display.log(model.network.describe())
        if model.key_mismatch:
            display.log(f"only the matching tensors are loaded, the rest is random: {model.key_mismatch}")
        if model.checkpoint.note:
            display.log(f"{job.checkpoint}: {model.checkpoint.note}")
        info = resolve_dataset(job, model)
        samples = select_samples(info, job)
        labelled = job.save_predictions is None or have_labels(samples)
        check_num_classes(model.network, info, job.checkpoint)
        window = choose_window(model, job.mode, job.crop, job.stride, display.log)
        dataset = EvalSet(info, samples, scales=job.scales, flip=job.flip, labelled=labelled)
        title = "/".join(Path(job.checkpoint).parts[-2:])
        progress_bar = display.progress_bar(title, -(-len(samples) // dist_ctx.size))
        files = _prediction_files(job, info, samples)
        network = model.network.to(dist_ctx.device)
        processes = count_loader_processes(
            "auto" if job.workers is None else job.workers, on_gpu=job.device == "cuda",
            local_workers=dist_ctx.local_size, item_bytes=evaluation_bytes(info.eval_scale, job.scales, flip=job.flip),
        )  # fmt: skip
        debug(f"{len(samples)} images of `{info.root}`, {processes} loader process(es), device {dist_ctx.device}")
        counts = evaluate(
            network, dataset, dist_ctx, workers=processes, batch_size=job.batch_size, window=window,
            boundary_width=job.boundary_width, progress_bar=progress_bar,
            on_prediction=files.write if files is not None else None,
        )  # fmt: skip
        protocol = make_protocol(info, samples, job.split, job.scales, job.flip, window)
        if files is not None:
            display.log(files.summary)
        if not labelled:
            display.log(f"no image of `{info.name}` {job.split} has labels: nothing was measured")
            display.log(protocol_line(protocol))
        elif not counts.matrix.any():
            raise RmrkdError(
                f"the label maps of `{info.name}` {job.split} have no pixel of any class: all are ignored",
                data_check_command(info),
            )
        elif dist_ctx.is_rank0:
            facts = {**model.metadata, **count_parameters_and_macs(network, info.eval_scale)}
            facts["evaluation"] = evaluation_settings(dist_ctx.device)
            per_image, boundary = counts.per_image(samples), counts.boundary(samples)
            record = make_record(counts, protocol, per_image=per_image, boundary=boundary, **facts)
            write_text(to_json(record), Path(job.output))
        dist_ctx.barrier()


def _prediction_files(job: EvalJob, info: DatasetInfo, samples: Sequence[Sample]) -> PredictionFiles | None:
    if job.save_predictions is None:
        return None
    label_ids = job.label_ids
    if label_ids is None:
        label_ids = job.split == "test" and info.label_ids is not None
    return PredictionFiles(Path(job.save_predictions), info, samples, label_ids=label_ids)


def _training_facts(file: Path, record: Record) -> dict[str, Any]:
    """Return `training` of the result.json next to a student.pth; empty if that describes another file."""
    result = file.parent / "result.json"
    if file.name != "student.pth" or not result.is_file():
        return {}
    try:
        trained = read_record(result)
    except RmrkdError:  # the evaluation does not need it
        return {}
    same = trained.get("checkpoint_sha256") in (None, record["checkpoint_sha256"])  # old results have no digest
    return {"training": trained["training"]} if same and trained.get("training") else {}


def _prediction_folders(files: Sequence[Path], root: Path | None) -> dict[Path, str | None]:
    """Return the prediction folder of each checkpoint, all of them new."""
    if root is None:
        return dict.fromkeys(files)
    check_free_folder(root)
    if len(files) == 1:
        return {files[0]: str(root)}
    return {file: str(root / f"{number}-{file.parent.name}-{file.stem}") for number, file in enumerate(files, 1)}
