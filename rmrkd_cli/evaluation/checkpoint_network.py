"""Build the network of any checkpoint, and find the data set it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rmrkd_cli.checkpoints.foreign_networks import SUPPORTED, describe_network
from rmrkd_cli.checkpoints.missing_student import require_student
from rmrkd_cli.checkpoints.network_state import HEAD
from rmrkd_cli.checkpoints.reader import Checkpoint, load_state_dict_checked, read_checkpoint
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info
from rmrkd_cli.data.sample_table import SampleTable
from rmrkd_cli.data.samples import find_samples, fix_for_missing, have_labels
from rmrkd_cli.distributed.job import EvalJob
from rmrkd_cli.errors import RmrkdError, summarize_error
from rmrkd_cli.evaluation.network_file import library_of_file, load_network_file
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import measure_shapes
from rmrkd_cli.networks.libraries import MMSEG, build_network, library_of, network_config
from rmrkd_cli.networks.mmseg_versions import model_of
from rmrkd_cli.presets.loader import dataset_preset
from rmrkd_cli.presets.network_schema import FILE_LIBRARIES, Network
from rmrkd_cli.presets.safe_yaml import read_yaml
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.provenance import provenance
from rmrkd_cli.storage.folder_contents import network_path
from rmrkd_cli.storage.memory_limit import limit_memory
from rmrkd_cli.terminal.messages import debug

_PRESET_HINT = "name the preset of its network with --preset NAME (`rmrkd presets` lists them)"


@dataclass
class CheckpointNetwork:
    """A network with the weights of a checkpoint.

    Attributes:
        preset: The preset given by the caller, else the one in the checkpoint.
        key_mismatch: With `allow_partial`: the keys that differ between weights and network; else empty.
    """

    network: nn.Module
    checkpoint: Checkpoint
    preset: Preset | None
    key_mismatch: str = ""

    @property
    def metadata(self) -> dict[str, Any]:
        """Name, role, method, seed, iterations, path and provenance, as a result record has them."""
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
    path: str,
    preset: Preset | None,
    device: str,
    *,
    allow_partial: bool | None = None,
    file_input: Mapping[str, Any] | None = None,
    dataset: str | None = None,
) -> CheckpointNetwork:
    """Build the network of a checkpoint and load its weights: a distiller's student, a plain student, or a teacher.

    Args:
        path: A checkpoint file, or a folder of `rmrkd export --hub`.
        preset: Take the network from this preset; None: from the checkpoint's own config.
        device: "cpu" or "cuda"; decides between BatchNorm and SyncBN.
        allow_partial: Load the matching tensors if the weights do not match the network; the rest stays random. None:
            the command has no such option, and no message names it.
        file_input: For an ONNX or TorchScript file: `input`, `output` and `classes` as in a preset's teacher. None: as
            in the preset whose teacher has this file's name, else as the file says.
        dataset: The built-in data set whose classes such a file shall predict; None: the preset's or the file's.

    Raises:
        RmrkdError: The file describes no network, its weights do not match, or its network cannot run.
    """
    path = str(network_path(Path(path)))
    if (library := library_of_file(Path(path))) is not None:
        return CheckpointNetwork(*load_network_file(Path(path), library, preset, device, file_input, dataset))
    debug(f"reading `{path}`")
    checkpoint = read_checkpoint(path, lazy=True)
    state = require_student(checkpoint)
    if preset is None:
        network = _network_of_file(checkpoint, state, device)
    else:
        network = _network_of_preset(preset, state, _num_classes(checkpoint, state, preset), device)
    key_mismatch = load_state_dict_checked(
        network, state, path, hint="name the preset of its network with --preset NAME",
        partial_hint="" if allow_partial is None else "load the matching tensors with --allow-partial",
        partial=bool(allow_partial),
    )  # fmt: skip
    try:
        with limit_memory():
            measure_shapes(network)
    except Exception as error:  # an untrusted config can match the weights and still fail in the forward pass
        message = f"the network that `{path}` describes cannot run: {summarize_error(error)}"
        raise RmrkdError(message, _PRESET_HINT) from error
    return CheckpointNetwork(network, checkpoint, preset or preset_of(checkpoint), key_mismatch)


def resolve_dataset(job: EvalJob, model: CheckpointNetwork) -> DatasetInfo:
    """Return the data set of a job: the one the job names, else the one of the checkpoint's preset.

    Raises:
        RmrkdError: Neither names a data set, or the job names `custom` without a preset.
    """
    preset = model.preset
    if preset is None and job.dataset is None:
        if model.checkpoint.meta.get("dataset") == "custom":
            raise RmrkdError(
                f"`{job.checkpoint}` is of a `custom` data set, and does not name its folders",
                "name the preset: --preset FILE",
            )
        raise RmrkdError(
            f"`{job.checkpoint}` does not name its data set",
            "name it with --dataset NAME, or your own with --preset FILE",
        )
    if preset is None or (job.dataset is not None and job.dataset != preset.dataset):
        assert job.dataset is not None
        if job.dataset == "custom":
            raise RmrkdError(
                f"`{job.checkpoint}` does not name the folders of your images",
                "pass the preset with the folders and classes: --preset FILE",
            )
        preset = dataset_preset(job.dataset)
    if job.data_root is not None:
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": job.data_root})})
    return dataset_info(preset)


def select_samples(info: DatasetInfo, job: EvalJob) -> SampleTable:
    """Return the samples of a job; labels are optional if predictions are saved.

    Raises:
        RmrkdError: A file is missing, or no image has labels and the job requires them.
    """
    samples = find_samples(info, job.split, labels=job.save_predictions is None)
    if job.save_predictions is None and samples.count_labelled() < len(samples):
        raise RmrkdError(
            f"the split `{job.split}` has no label maps in the preset: `data.{job.split}.labels` is not a folder",
            "--split val, or --save-predictions DIR, which needs no labels",
        )
    if job.require_labels and not have_labels(samples):
        hint = "leave out --json; --save-predictions alone needs no labels"
        if fix := fix_for_missing(info):
            hint += f". {fix}"
        raise RmrkdError(f"--json needs labels: `{info.root}` has none for `{info.name}` {job.split}", hint)
    return samples if job.max_images is None else samples[: job.max_images]


def check_num_classes(network: nn.Module, info: DatasetInfo, path: str) -> None:
    """Raise RmrkdError if the network and the data set differ in their number of classes."""
    if (count := adapter_of(network).num_classes) != info.num_classes:
        raise RmrkdError(
            f"`{path}` predicts {count} classes, `{info.name}` has {info.num_classes}",
            "choose the data set it was trained on with --dataset NAME",
        )


def preset_of(checkpoint: Checkpoint) -> Preset | None:
    """Return the preset in a checkpoint, or None; a foreign checkpoint's data root is removed."""
    contents = checkpoint.meta.get("preset")
    if not isinstance(contents, Mapping):
        return None
    try:
        preset = Preset.model_validate(dict(contents))
    except ValueError:
        return None
    # The folders of a built-in data set are known; those of a custom one could be any folder of this machine.
    root = preset.data.root
    if preset.dataset == "custom" and root is not None and not _run_uses_root(checkpoint.path, root):
        preset = preset.model_copy(update={"data": preset.data.model_copy(update={"root": None})})
    return preset


def _run_uses_root(checkpoint: Path, root: str) -> bool:
    """Return whether the checkpoint is in a run directory whose config.yaml names the same data root."""
    config = checkpoint.parent / "config.yaml"
    if not config.is_file():
        return False
    try:
        contents = read_yaml(config, "configuration")
    except RmrkdError:
        return False
    data = contents.get("data") if isinstance(contents, dict) else None
    return isinstance(data, dict) and data.get("root") == root


def _num_classes(checkpoint: Checkpoint, state: Mapping[str, Tensor], preset: Preset) -> int:
    """Return how many classes the network of a checkpoint has, which a preset names."""
    weight = state.get(HEAD)
    if weight is not None and weight.ndim:
        return int(weight.shape[0])
    described = (checkpoint.network or {}).get("num_classes")
    if isinstance(described, int):
        return described
    if MMSEG in (preset.student.library, preset.teacher.library):
        raise _no_mmseg_network(state, checkpoint.path)
    return dataset_info(preset).num_classes


def _no_mmseg_network(state: Mapping[str, Tensor], path: Path) -> RmrkdError:
    return RmrkdError(
        f"`{path}` contains no segmentation network of mmsegmentation: `{HEAD}` is missing, and "
        f"{describe_network(state)}",
        SUPPORTED,
    )


def _network_of_file(checkpoint: Checkpoint, state: Mapping[str, Tensor], device: str) -> nn.Module:
    """Build the network that a checkpoint describes.

    The description is untrusted: the network may have at most twice the parameters of the weights.
    """
    config = checkpoint.network
    if config is None:
        if HEAD not in state or state[HEAD].ndim == 0:
            raise _no_mmseg_network(state, checkpoint.path)
        text = checkpoint.meta.get("config")
        config = model_of(parse_config_text(text)) if isinstance(text, str) else None
        if config is None or config.get("type") != "EncoderDecoder":
            raise RmrkdError(f"`{checkpoint.path}` does not describe its network", _PRESET_HINT)
    if library_of(config) in FILE_LIBRARIES:  # it would open any file of this machine
        raise RmrkdError(f"`{checkpoint.path}` describes a network that is another file", _PRESET_HINT)
    size = sum(tensor.numel() for tensor in state.values())
    torch.manual_seed(0)  # the parameters that `--allow-partial` leaves random are the same in every run
    return build_network(config, device=device, max_parameters=2 * size, hint=_PRESET_HINT)


def _network_of_preset(preset: Preset, state: Mapping[str, Tensor], num_classes: int, device: str) -> nn.Module:
    """Build the preset's student, or its teacher if only the teacher matches the checkpoint."""
    expected = {key: value.shape for key, value in state.items()}
    networks = []
    specs: list[tuple[str, Network]] = [("student", preset.student), ("teacher", preset.teacher)]
    only_student = preset.teacher.is_file or preset.teacher.gives_only_features
    for name, spec in specs[: 1 if only_student else 2]:
        network = build_network(network_config(spec, num_classes), device=device, name=name)
        if {key: value.shape for key, value in network.state_dict().items()} == expected:
            return network
        networks.append(network)
    return networks[0]
