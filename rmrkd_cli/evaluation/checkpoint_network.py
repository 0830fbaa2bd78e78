"""The network of a checkpoint of any kind, and the images it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.checkpoints.reader import Checkpoint, load_state_dict_checked, read_checkpoint
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.samples import Sample, find_samples, fix_for_missing, have_labels
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.errors import RmrkdError, first_line
from rmrkd_cli.networks.memory_limit import limit_memory
from rmrkd_cli.networks.mmseg import build_network, network_config, shapes_of
from rmrkd_cli.presets.safe_yaml import read_yaml
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.provenance import provenance

_NAME_IT = "say which one it is: --preset NAME (see `rmrkd presets`)"


@dataclass
class CheckpointNetwork:
    """A network with its weights, and what its checkpoint says of it."""

    network: nn.Module
    checkpoint: Checkpoint
    preset: Preset | None
    key_mismatch: str = ""  # in which keys they differ, where that was allowed

    @property
    def facts(self) -> dict[str, Any]:
        meta = self.checkpoint.meta
        return {
            "name": self.preset.name if self.preset is not None else None,
            "role": meta.get("role") if isinstance(meta.get("role"), str) else None,
            "method": meta.get("method") if isinstance(meta.get("method"), str) else None,
            "seed": meta.get("seed") if isinstance(meta.get("seed"), int) else None,
            "iterations": meta.get("iterations") if isinstance(meta.get("iterations"), int) else None,
            "checkpoint": str(self.checkpoint.path),
            **provenance(self.checkpoint.path, meta.get("sources")),
            **({"partial": self.key_mismatch} if self.key_mismatch else {}),
        }


def load_checkpoint_network(
    path: str, given: Preset | None, device: str, *, allow_partial: bool = False
) -> CheckpointNetwork:
    """Builds and fills the network of a checkpoint: a distiller's student, a plain one, or a teacher.

    Args:
        given: A preset to take the network from, where the file does not describe itself.
        allow_partial: Load what fits of weights that do not cover the network.

    Raises:
        RmrkdError: When the file describes no network, or one that it does not cover or that does not compute.
    """
    checkpoint = read_checkpoint(path, lazy=True)
    state = checkpoint.student()
    if not state:
        raise RmrkdError(f"`{path}` holds no student: no key begins with `student.`")
    preset = given or _own_preset(checkpoint)
    classes = _classes_of(state, path)
    network = None
    if given is None and isinstance(checkpoint.meta.get("config"), str):
        config = parse_config_text(checkpoint.meta["config"]).get("model")
        if isinstance(config, dict) and config.get("type") == "EncoderDecoder":
            network = _described_network(config, state, device)
    if network is None:
        if given is None:
            raise RmrkdError(f"`{path}` does not describe its network", _NAME_IT)
        network = _fitting_network(given, state, classes, device)
    hint = "is it the network of another preset? " if given else ""
    told = load_state_dict_checked(
        network, state, path, hint=f"{hint}--allow-partial loads what fits", partial=allow_partial
    )
    try:
        with limit_memory():
            shapes_of(network)
    except Exception as error:  # a stranger's config can fit the weights and still not the network
        raise RmrkdError(
            f"the network that `{path}` describes does not compute: {first_line(error)}", _NAME_IT
        ) from error
    return CheckpointNetwork(network, checkpoint, preset, told)


def dataset_for(job: EvalJob, loaded: CheckpointNetwork) -> DatasetInfo:
    preset = loaded.preset
    if preset is None and job.dataset is None:
        raise RmrkdError(f"`{job.checkpoint}` does not say its data set", "--dataset NAME")
    if preset is None or (job.dataset is not None and job.dataset != preset.dataset):
        if job.dataset == "custom":
            raise RmrkdError(
                f"`{job.checkpoint}` does not say where your images are",
                "--preset FILE, with their folders and classes",
            )
        preset = Preset.model_validate(
            {"dataset": job.dataset, "teacher": {"config": "none"}, "student": {"config": "none"}}
        )
    if job.data_root is not None:
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": job.data_root})})
    return dataset_info(preset)


def samples_of(info: DatasetInfo, job: EvalJob) -> list[Sample]:
    """The images; those that are only predicted need no labels."""
    samples = find_samples(info, job.split, labels=job.save_predictions is None)
    if job.measured and not have_labels(samples):
        raise RmrkdError(
            f"no image of `{info.name}` {job.split} has labels in `{info.root}`, so --json would hold nothing",
            f"leave --json out: --save-predictions writes what is predicted. {fix_for_missing(info)}".removesuffix(
                ". "
            ),
        )
    return samples if job.max_images is None else samples[: job.max_images]


def check_classes(network: nn.Module, info: DatasetInfo, path: str) -> None:
    if network.num_classes != info.num_classes:
        raise RmrkdError(
            f"`{path}` tells {network.num_classes} classes apart, `{info.name}` has {info.num_classes}",
            "choose the data set it was trained on with --dataset",
        )


def _own_preset(checkpoint: Checkpoint) -> Preset | None:
    described = checkpoint.meta.get("preset")
    if not isinstance(described, Mapping):
        return None
    try:
        preset = Preset.model_validate(dict(described))
    except ValueError:
        return None
    strange = preset.dataset == "custom"  # its folders and lists may be anything, those of the others are known
    if strange and preset.data.root is not None and not _is_of_this_place(checkpoint.path, preset.data.root):
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": None})})
    return preset


def _is_of_this_place(path: Path, root: str) -> bool:
    """Whether the checkpoint lies in a run's directory that names the same images.

    One from elsewhere may name any folder of this machine.
    """
    config = path.parent / "config.yaml"
    if not config.is_file():
        return False
    try:
        written = read_yaml(config, "configuration")
    except RmrkdError:
        return False
    data = written.get("data") if isinstance(written, dict) else None
    return isinstance(data, dict) and data.get("root") == root


def _classes_of(state: Mapping[str, Tensor], path: str) -> int:
    weight = state.get("decode_head.conv_seg.weight")
    if weight is None or weight.ndim == 0:
        raise RmrkdError(f"`{path}` holds no segmentation network: `decode_head.conv_seg.weight` is missing")
    return int(weight.shape[0])


def _described_network(config: dict[str, Any], state: Mapping[str, Tensor], device: str) -> nn.Module:
    """The network of a stranger's config, no larger than the weights beside it."""
    held = sum(tensor.numel() for tensor in state.values())
    torch.manual_seed(0)  # what `--allow-partial` leaves as it is built shall at least be the same each time
    return build_network(config, device=device, most_parameters=2 * held, hint=_NAME_IT)


def _fitting_network(preset: Preset, state: Mapping[str, Tensor], classes: int, device: str) -> nn.Module:
    """The preset's student, or its teacher where only that has the checkpoint's keys and shapes."""
    wanted = {key: value.shape for key, value in state.items()}
    networks = []
    for name, spec in (("student", preset.student), ("teacher", preset.teacher)):
        network = build_network(network_config(spec, classes), device=device, name=name)
        if {key: value.shape for key, value in network.state_dict().items()} == wanted:
            return network
        networks.append(network)
    return networks[0]
