"""What a worker process does: run the teachers over its share of the training images, and write what they give."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rmrkd_cli import __version__
from rmrkd_cli.data.datasets import dataset_info
from rmrkd_cli.data.loader import evaluation_images, report_lost_loaders
from rmrkd_cli.data.loader_processes import count_loader_processes, evaluation_bytes
from rmrkd_cli.data.map_file import StoredMap, keep_largest, write_map
from rmrkd_cli.data.sample_reader import SampleFiles
from rmrkd_cli.data.samples import Sample, fingerprint
from rmrkd_cli.data.stored_outputs import OutputFormat
from rmrkd_cli.data.transforms import EvalItem, EvalViews
from rmrkd_cli.data.unlabelled import find_training_samples
from rmrkd_cli.distillation.teacher_outputs import INDEX, OutputsIndex, check_same_outputs, read_index
from rmrkd_cli.distributed.coordination import current_coordinator
from rmrkd_cli.distributed.job import CacheJob
from rmrkd_cli.distributed.process_group import DistContext, distributed_context
from rmrkd_cli.distributed.worker_errors import ERRORS
from rmrkd_cli.errors import Interrupted, RunError
from rmrkd_cli.evaluation.batching import SizeBatcher, default_batch_size, stack_views
from rmrkd_cli.evaluation.precision import EVALUATION_TF32, float32_precision
from rmrkd_cli.signals import StopRequest, stop_requests
from rmrkd_cli.storage.atomic import create_bytes, write_text
from rmrkd_cli.storage.claims import Claims
from rmrkd_cli.terminal.live_display import LiveDisplay, live_display
from rmrkd_cli.training.caching.ensemble import TeacherEnsemble
from rmrkd_cli.training.caching.images import BYTES, SIGNATURE, PendingImages, check_space, is_stored
from rmrkd_cli.training.caching.measure import measure_teacher
from rmrkd_cli.training.caching.teachers import load_teachers

CLAIMS = ".claims"


def run_caching(job: CacheJob) -> None:
    """Store the outputs for the training images of the first preset; every worker process calls this.

    Several commands may fill one folder at the same time: a file is made by one of them.

    Raises:
        RmrkdError: The folder holds other outputs, they do not fit on the disk, or a teacher cannot be used.
        RunError: An image cannot be read, or a file cannot be written.
        Interrupted: After a signal; files that are written stay.
    """
    under_launcher = ERRORS in os.environ or current_coordinator() is not None
    with (
        report_lost_loaders(),
        distributed_context(job.device) as dist_ctx,
        live_display(quiet=not dist_ctx.is_rank0) as display,
        float32_precision(EVALUATION_TF32),
        stop_requests(ignore_repeats=under_launcher) as stop,
    ):
        _Filler(job, dist_ctx, display, stop).run()
        dist_ctx.barrier()


@dataclass
class _Counts:
    """Images of this worker: stored now, stored before, in the work of another command, and unreadable."""

    stored: int = 0
    before: int = 0
    others: int = 0
    unreadable: int = 0


class _Filler:
    def __init__(self, job: CacheJob, dist_ctx: DistContext, display: LiveDisplay, stop: StopRequest) -> None:
        self.job, self.dist_ctx, self.display, self.stop = job, dist_ctx, display, stop
        self.preset, self.folder = job.presets[0], Path(job.out)
        self.info = dataset_info(self.preset)
        self.samples = find_training_samples(self.info, "distill")
        self.views = EvalViews(self.info.scale, job.scales)
        self.counts = _Counts()

    def run(self) -> None:
        job, dist_ctx = self.job, self.dist_ctx
        networks, files = load_teachers(job.presets, self.info, dist_ctx.device, self.display.log)
        self.ensemble = TeacherEnsemble(
            networks, self.info.num_classes, dist_ctx.device, scales=job.scales, flip=job.flip,
            probabilities=job.top_k is not None, names=[preset.name for preset in job.presets],
        )  # fmt: skip
        ensemble = self.ensemble
        wanted = OutputsIndex(
            teachers=files, dataset=self.info.name, classes=self.info.classes, scale=self.info.scale,
            max_value=self.info.max_value, scales=job.scales, flip=job.flip, top_k=job.top_k,
            values="log-probabilities" if ensemble.probabilities else "logits", stride=ensemble.stride,
            align_corners=ensemble.align_corners, images=len(self.samples), fingerprint=fingerprint(self.samples),
            versions={"rmrkd": __version__, "torch": str(torch.__version__)},
        ).identified()  # fmt: skip
        existing = dist_ctx.broadcast_from_rank0(lambda: read_index(self.folder) if self._has_index() else None)
        if existing is not None:
            check_same_outputs(self.folder, existing, wanted)
        space = dist_ctx.broadcast_from_rank0(
            lambda: check_space(self.folder, self.views, self.samples, ensemble, job.top_k)
        )
        self.display.log(space)
        if existing is None or existing.miou is None:
            miou, measured = measure_teacher(
                ensemble, self.preset, self.info, dist_ctx, self.display, job, self._stop_signal
            )
            wanted = wanted.model_copy(update={"miou": miou, "measured": measured})
        else:
            wanted = wanted.model_copy(update={"miou": existing.miou, "measured": existing.measured})
        if dist_ctx.is_rank0:
            self._write_index(existing, wanted)
        dist_ctx.barrier()
        self._fill(wanted.output_format(self.folder))

    def _has_index(self) -> bool:
        return (self.folder / INDEX).is_file()

    def _write_index(self, existing: OutputsIndex | None, wanted: OutputsIndex) -> None:
        path, text = self.folder / INDEX, wanted.model_dump_json(indent=2) + "\n"
        if existing is not None:
            if existing.model_copy(update={"versions": wanted.versions}) != wanted:
                write_text(text, path)  # more images, or the mIoU
        else:
            try:
                create_bytes(text.encode(), path)
            except FileExistsError:  # another command was first
                check_same_outputs(self.folder, read_index(self.folder), wanted)

    def _fill(self, form: OutputFormat) -> None:
        size, rank = self.dist_ctx.size, self.dist_ctx.rank
        own = list(range(rank, len(self.samples), size))
        start = random.SystemRandom().randrange(max(len(own), 1))  # other commands begin elsewhere
        own = own[start:] + own[:start]
        rounds = -(-len(self.samples) // size)
        progress_bar = self.display.progress_bar("images", rounds)
        batch_size = self.job.batch_size or default_batch_size(
            self.dist_ctx.device.type, self.info.scale, self.job.scales
        )
        batcher = SizeBatcher(batch_size)
        with Claims(self.folder / CLAIMS) as claims:
            items = self._items(own, form)
            for done in range(1, rounds + 1):
                if signum := self._stop_signal():
                    raise self._interrupted(signum)
                item = self._claimed(next(items, None), form, claims)
                for batch in batcher.add(item, last=done == rounds):
                    self._store(batch, form, claims)
                if progress_bar is not None:
                    progress_bar.update(done)
        if progress_bar is not None:
            progress_bar.close()
        self._report()

    def _items(self, indices: Sequence[int], form: OutputFormat) -> Iterator[Any]:
        dataset = PendingImages(
            SampleFiles(self.info, self.samples), self.views, form, skip_corrupt=self.preset.schedule.skip_corrupt
        )
        on_gpu = self.dist_ctx.device.type == "cuda"
        processes = count_loader_processes(
            "auto" if self.job.workers is None else self.job.workers, on_gpu=on_gpu,
            local_workers=self.dist_ctx.local_size, item_bytes=evaluation_bytes(self.info.scale, self.job.scales),
        )  # fmt: skip
        return evaluation_images(dataset, indices, processes, pin=on_gpu)

    def _claimed(self, item: Any, form: OutputFormat, claims: Claims) -> EvalItem | None:
        """Return the item if this process is to make its file."""
        if isinstance(item, str):
            self.display.log(f"skipped: {item}")
            self.counts.unreadable += 1
        elif isinstance(item, int):
            self.counts.before += 1
        elif item is not None and not claims.take(item.index):
            self.counts.others += 1
        elif item is not None:
            if not form.path(self._sample(item).name).exists() or not is_stored(form, self._sample(item)):
                return item  # type: ignore[no-any-return]
            claims.give_back(item.index)  # another command has made it since it was read
            self.counts.others += 1
        return None

    def _sample(self, item: EvalItem) -> Sample:
        return self.samples[item.index]

    def _store(self, batch: Sequence[EvalItem], form: OutputFormat, claims: Claims) -> None:
        device = self.dist_ctx.device
        views = [images.to(device, non_blocking=True) for images, _ in stack_views(batch, device)]
        outputs = self.ensemble(views)
        finite = outputs.values.isfinite().flatten(1).all(1).tolist()
        if not all(finite):
            raise RunError(
                f"the teacher gives infinite or NaN logits for `{self._sample(batch[finite.index(False)]).image}`",
                "check the teacher's file with `rmrkd eval`",
            )
        for item, values in zip(batch, outputs.values, strict=True):
            meta = item.views[0][1]
            largest = (values.half(), None, None) if form.top_k is None else keep_largest(values, form.top_k)
            kept, classes, rest = (None if part is None else part.cpu() for part in largest)
            assert kept is not None
            height, width = meta["ori_shape"][:2]
            stored = StoredMap(
                kept, (height, width), outputs.fitted, outputs.covered, meta[SIGNATURE], meta[BYTES], form.identity,
                classes, rest,
            )  # fmt: skip
            write_map(stored, form.path(self._sample(item).name))
            claims.give_back(item.index)
            self.counts.stored += 1

    def _stop_signal(self) -> int:
        """Return the signal that any worker received, the same on all; 0 if none."""
        (signum,) = self.dist_ctx.all_reduce_max(self.stop.signum)
        return signum

    def _interrupted(self, signum: int) -> Interrupted:
        stored = self.counts.stored + self.counts.before
        return Interrupted(
            signum,
            f"stopped by {signal.Signals(signum).name}; the outputs that are written stay in `{self.folder}`"
            + (f" ({stored} of {len(self.samples)} images)" if self.dist_ctx.size == 1 else ""),
            "run the same command again: it continues",
        )

    def _report(self) -> None:
        counts = self.counts
        own = torch.tensor([counts.stored, counts.before, counts.others, counts.unreadable])
        stored, before, others, unreadable = self.dist_ctx.all_reduce_sum(own).tolist()
        parts = [f"{stored} stored"]
        parts += [f"{before} were stored before"] if before else []
        parts += [f"{others} by another command"] if others else []
        parts += [f"{unreadable} unreadable"] if unreadable else []
        self.display.log(f"{len(self.samples)} images: {', '.join(parts)}")
