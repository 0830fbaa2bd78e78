"""Load an ONNX or TorchScript file as a network to measure or to predict with."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from torch import nn

from rmrkd_cli.checkpoints.file_formats import network_file_format
from rmrkd_cli.checkpoints.reader import Checkpoint
from rmrkd_cli.data.datasets import DatasetInfo, dataset_info, dataset_without_images
from rmrkd_cli.networks.file_network import FileNetwork, data_facts, describe_use
from rmrkd_cli.networks.libraries import build_network
from rmrkd_cli.presets.loader import dataset_preset
from rmrkd_cli.presets.schema import DatasetName, Preset
from rmrkd_cli.storage.folder_contents import check_checkpoint_file

_META = {"classes": "CLASSES", "palette": "PALETTE"}  # of `rmrkd export` -> of a checkpoint
_KEPT = ("dataset", "role", "seed", "iterations")


def library_of_file(path: Path) -> str | None:
    """Return "onnx" or "torchscript" for such a file, and None for any other, such as a checkpoint."""
    return network_file_format(path) if path.is_file() else None


def load_network_file(
    path: Path,
    library: str,
    preset: Preset | None,
    device: str,
    given: Mapping[str, Any] | None = None,
    dataset: str | None = None,
) -> tuple[nn.Module, Checkpoint, Preset | None]:
    """Return the network of a file, what the file says in the form of a checkpoint, and its preset.

    Args:
        library: From `library_of_file`.
        preset: Names the data set, and describes the file if its teacher has the file's name.
        given: `input`, `output` and `classes` as in a preset's teacher; None: as in the preset.
        dataset: A built-in data set; None: the preset's, else the one that the file names.

    Raises:
        RmrkdError: The file is unsafe, damaged or no segmentation network, or the description does not fit it.
    """
    check_checkpoint_file(path)
    given = given if given is not None else _description_of_preset(preset, path)
    info = _dataset(preset, dataset)
    config: dict[str, Any] = {"library": library, "file": str(path), **(given or {})}
    if info is not None:
        config |= data_facts(info)
    network = build_network(config, device=device)
    assert isinstance(network, FileNetwork)
    meta = _metadata(network, info)
    if preset is None and dataset is None and meta.get("dataset") in get_args(DatasetName):
        named = str(meta["dataset"])
        preset = dataset_preset(named) if named != "custom" else None
    return network, Checkpoint(path, "plain", meta, {}, {}), preset


def _description_of_preset(preset: Preset | None, path: Path) -> dict[str, Any] | None:
    """Return the description of a preset's teacher if it has this file's name; the folder may be another one."""
    if preset is None or not preset.teacher.is_file or Path(str(preset.teacher.file)).name != path.name:
        return None
    return describe_use(preset.teacher)


def _dataset(preset: Preset | None, dataset: str | None) -> DatasetInfo | None:
    if dataset not in (None, "custom"):
        return dataset_info(dataset_preset(str(dataset)))
    if preset is None:
        return None
    return dataset_without_images(preset)


def _metadata(network: FileNetwork, info: DatasetInfo | None) -> dict[str, Any]:
    """Return the metadata of a checkpoint: the classes that the network predicts, and where the file comes from."""
    entries = network.facts.entries
    meta = {key: entries[key] for key in _KEPT if key in entries}
    resize = (network.facts.preprocessing or {}).get("resize")
    if isinstance(resize, Mapping):
        meta["scale"] = resize.get("size")
    if info is not None and info.num_classes == network.num_classes:
        return meta | {"CLASSES": info.classes, "PALETTE": [list(colour) for colour in info.palette]}
    meta |= {name: entries[key] for key, name in _META.items() if key in entries}
    return meta | ({"CLASSES": network.names} if network.names and network.class_map is None else {})
