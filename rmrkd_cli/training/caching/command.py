"""Check what `rmrkd cache-teacher` needs, and run its workers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.map_file import MAX_CLASSES
from rmrkd_cli.data.unlabelled import find_training_samples
from rmrkd_cli.distillation.teacher_outputs import INDEX, OutputsIndex, read_index
from rmrkd_cli.distributed.cluster import Cluster
from rmrkd_cli.distributed.job import CacheJob
from rmrkd_cli.distributed.launcher import execute
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.storage.atomic import cannot_write
from rmrkd_cli.storage.output_paths import check_free_folder
from rmrkd_cli.training.caching.teachers import check_teachers


def cache_teacher(
    presets: Sequence[Preset],
    out: Path,
    device: str,
    cluster: Cluster,
    *,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    top_k: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    code: tuple[str, ...] = (),
) -> OutputsIndex:
    """Store the outputs of teachers for all training images of the first preset, and return the index.

    Args:
        presets: The probabilities of their teachers are averaged.
        out: A new or empty folder, or one of these outputs, which is filled further.
        device: "cpu" or "cuda".
        cluster: The worker processes that share the images.
        scales: Average over images at these factors of the size that training images are fitted into.
        flip: Average with the mirrored image.
        top_k: Store only the largest classes of each position, and the probability of the others together.
        batch_size: Images of equal size at once in each worker; None: 1 on CPUs, up to 4 on GPUs.
        workers: Loader processes of each worker; None: from the machine's cores.
        code: Python files that networks may be built from.

    Raises:
        RmrkdError: An input is missing or does not fit, or the folder holds something else.
        RunError: A worker failed.
        Interrupted: After a signal; the same call continues.
    """
    presets = check_teachers(presets)
    _check_images(presets, top_k)
    if (out / INDEX).is_file():
        read_index(out)  # report damage before anything slow
    else:
        check_free_folder(out)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(out, error) from error
    job = CacheJob(
        presets=tuple(presets), out=str(out), device=device, scales=scales, flip=flip, top_k=top_k,
        batch_size=batch_size, workers=workers, code=code,
    )  # fmt: skip
    execute(job, cluster)
    return read_index(out)


def _check_images(presets: Sequence[Preset], top_k: int | None) -> None:
    """Check that all teachers have the same classes, and that every image has a file name of its own."""
    infos = [dataset_info(preset) for preset in presets]
    first = infos[0]
    for preset, info in zip(presets, infos, strict=True):
        if info.classes != first.classes:
            raise RmrkdError(
                f"the teachers have different classes: `{presets[0].name}` has those of `{first.name}` "
                f"({first.num_classes}), `{preset.name}` those of `{info.name}` ({info.num_classes})",
                "average teachers of the same classes only",
            )
    if first.num_classes > MAX_CLASSES:
        raise RmrkdError(f"at most {MAX_CLASSES} classes can be stored, `{first.name}` has {first.num_classes}")
    if top_k is not None and top_k >= first.num_classes:
        raise RmrkdError(
            f"--top-k {top_k}: the data set has {first.num_classes} classes", "leave out --top-k to store all of them"
        )
    names: set[str] = set()
    for name in find_training_samples(first, "distill").names():
        if name in names:
            raise RmrkdError(
                f"two training images have the name `{name}`, and outputs are stored by name", "rename one of them"
            )
        names.add(name)
