"""One checkpoint of any kind, from its file to a result record."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rmrkd_cli.checkpoints.reader import Checkpoint
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.loader import report_lost_loaders
from rmrkd_cli.data.samples import Sample, have_labels
from rmrkd_cli.data.transforms import EvalSet
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.distributed.process_group import world
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.evaluation.checkpoint_network import (
    CheckpointNetwork,
    check_classes,
    dataset_for,
    load_checkpoint_network,
    samples_of,
)
from rmrkd_cli.evaluation.evaluator import cost, evaluate, protocol
from rmrkd_cli.evaluation.inference_modes import Window
from rmrkd_cli.evaluation.prediction_files import PredictionFiles
from rmrkd_cli.evaluation.result_record import make_record
from rmrkd_cli.installation.mmseg import require_mmseg
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.protocol import protocol_line
from rmrkd_cli.results.record import to_json
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.terminal.console import screen

if TYPE_CHECKING:
    from rmrkd_cli.results.record import Record

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.results.record import Record

MOST_SIDE = 16_384  # of a window


def run_evaluation(job: EvalJob) -> None:
    """Evaluates on all workers; the first writes the record to `job.output`, unless there was nothing to measure."""
    given = Preset.model_validate(job.preset) if job.preset is not None else None
    with report_lost_loaders(), world(job.device) as dist_ctx, screen(quiet=not dist_ctx.is_first) as shown:
        loaded = load_checkpoint_network(job.checkpoint, given, job.device, allow_partial=job.allow_partial)
        if loaded.key_mismatch:
            shown.say(f"only what fits is loaded, the rest is random: {loaded.key_mismatch}")
        info = dataset_for(job, loaded)
        samples = samples_of(info, job)
        labelled = job.save_predictions is None or have_labels(samples)
        check_classes(loaded.network, info, job.checkpoint)
        window = _window(job, loaded, shown.say)
        dataset = EvalSet(info, samples, scales=job.scales, flip=job.flip, labelled=labelled)
        meter = shown.meter("/".join(Path(job.checkpoint).parts[-2:]), -(-len(samples) // dist_ctx.size))
        files = _prediction_files(job, info, samples)
        network = loaded.network.to(dist_ctx.device)
        counts = evaluate(
            network, dataset, dist_ctx, workers=job.workers, batch_size=job.batch_size, window=window, meter=meter,
            on_image=files.write if files is not None else None,
        )  # fmt: skip
        how = protocol(info, samples, job.split, job.scales, job.flip, window)
        if files is not None:
            shown.say(files.told)
        if not labelled:
            shown.say(f"no image of `{info.name}` {job.split} has labels: nothing could be measured")
            shown.say(protocol_line(how))
        elif dist_ctx.is_first:
            found = {**loaded.facts, **cost(network, info.eval_scale)}
            record = make_record(counts, how, per_image=counts.per_image(samples), **found)
            write_text(to_json(record), Path(job.output))
        dist_ctx.wait()


def _window(job: EvalJob, loaded: CheckpointNetwork, say: Callable[[str], None]) -> Window | None:
    """The window that slides: as asked for, else as the checkpoint's config has it, else the crop of its training.

    Raises:
        RmrkdError: Where none of them says its size, or the steps leave gaps.
    """
    own = _own_window(loaded.checkpoint)
    if job.mode == "whole":
        if own is not None:
            say(f"the config in `{loaded.checkpoint.path}` slides a window: --mode slide does so")
        return None
    crop, stride = job.crop, job.stride
    if crop is None and own is not None:
        crop, stride = own.crop, stride or own.stride
    elif crop is None and loaded.preset is not None:
        crop = loaded.preset.schedule.crop
    if crop is None:
        raise RmrkdError(
            f"`{loaded.checkpoint.path}` does not say which crop it was trained with", "--crop HEIGHTxWIDTH"
        )
    window = Window(crop, stride or (round(2 * crop[0] / 3) or 1, round(2 * crop[1] / 3) or 1))
    if any(step > side for step, side in zip(window.stride, window.crop, strict=True)):
        steps, sides = (f"{height}x{width}" for height, width in (window.stride, window.crop))
        raise RmrkdError(
            f"--stride {steps} is more than the window's {sides}: what lies between would not be seen",
            "a smaller --stride, or a larger --crop",
        )
    return window


def _own_window(checkpoint: Checkpoint) -> Window | None:
    """The window of the config inside a checkpoint, where that has one that can be used."""
    text = checkpoint.meta.get("config")
    if not isinstance(text, str):
        return None
    try:
        model = parse_config_text(text).get("model")
    except RmrkdError:
        return None
    test = model.get("test_cfg") if isinstance(model, dict) else None
    if not isinstance(test, dict) or test.get("mode") != "slide":
        return None
    crop, stride = test.get("crop_size"), test.get("stride")
    for pair in (crop, stride):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            return None
        if not all(type(side) is int and 1 <= side <= MOST_SIDE for side in pair):
            return None
    window = Window((crop[0], crop[1]), (stride[0], stride[1]))  # type: ignore[index]
    return window if all(map(int.__le__, window.stride, window.crop)) else None


def _prediction_files(job: EvalJob, info: DatasetInfo, samples: list[Sample]) -> PredictionFiles | None:
    if job.save_predictions is None:
        return None
    ids = job.label_ids
    if ids is None:
        ids = job.split == "test" and info.label_ids is not None
    return PredictionFiles(Path(job.save_predictions), info, samples, label_ids=ids)


def evaluate_files(
    files: Sequence[Path], options: dict[str, Any], cluster: Cluster, save_predictions: Path | None = None
) -> list[Record]:
    """Evaluates checkpoints one after the other, each by all workers; those of images without labels give no record."""
    from rmrkd_cli.distributed.job import EvalJob
    from rmrkd_cli.distributed.launcher import execute
    from rmrkd_cli.results.record import read_record

    for file in files:
        if not file.is_file():
            why = "is a folder" if file.is_dir() else "does not exist"
            raise RmrkdError(f"checkpoint `{file}` {why}", "name a .pth or .safetensors file")
    require_mmseg()
    folders = _prediction_folders(files, save_predictions)
    records = []
    for file in files:
        with tempfile.TemporaryDirectory(prefix="rmrkd-") as folder:
            output = Path(folder) / "result.json"
            job = EvalJob(checkpoint=str(file), output=str(output), save_predictions=folders[file], **options)
            execute(job, cluster)
            if output.exists():
                measured = read_record(output)
                records.append({**measured, **_training_beside(file, measured)})
    return records


def _training_beside(file: Path, measured: Record) -> dict[str, Any]:
    """What training cost, from the result beside a run's own student; nothing where that is of another file."""
    from rmrkd_cli.results.record import read_record

    beside = file.parent / "result.json"
    if file.name != "student.pth" or not beside.is_file():
        return {}
    try:
        record = read_record(beside)
    except RmrkdError:  # the file can be measured without
        return {}
    same = record.get("checkpoint_sha256") in (None, measured["checkpoint_sha256"])  # older results do not say
    return {"training": record["training"]} if same and record.get("training") else {}


def _prediction_folders(files: Sequence[Path], root: Path | None) -> dict[Path, str | None]:
    """One folder of index PNGs a checkpoint, none of them used before."""
    if root is None:
        return dict.fromkeys(files)
    check_free_folder(root)
    if len(files) == 1:
        return {files[0]: str(root)}
    return {file: str(root / f"{number}-{file.parent.name}-{file.stem}") for number, file in enumerate(files, 1)}
