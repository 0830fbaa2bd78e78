"""Write a network as a folder for the Hugging Face hub: weights, config, preprocessing and a model card."""

from __future__ import annotations

import json
import ntpath
import pprint
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from rmrkd_cli import __version__
from rmrkd_cli.checkpoints.hub_folder import FORMAT, LIBRARY
from rmrkd_cli.checkpoints.missing_student import require_student
from rmrkd_cli.checkpoints.plain_metadata import to_plain
from rmrkd_cli.checkpoints.reader import STUDENT_KIND
from rmrkd_cli.checkpoints.safetensors_file import holds, write_safetensors
from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text
from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork, load_checkpoint_network
from rmrkd_cli.evaluation.model_card import ModelCard, Scale, model_card
from rmrkd_cli.exporters.hub_card import write_card
from rmrkd_cli.exporters.verify import check_size, normalize, synthetic_images
from rmrkd_cli.networks.adapter import adapter_of
from rmrkd_cli.networks.feature_maps import segment
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.results.record import Record, read_record
from rmrkd_cli.storage.atomic import save_atomic, write_text
from rmrkd_cli.storage.cache import sha256_of
from rmrkd_cli.storage.folder_contents import HUB_CONFIG, HUB_WEIGHTS, RESULT
from rmrkd_cli.terminal.messages import log

PREPROCESSING, CARD = "preprocessor_config.json", "README.md"
_ABSOLUTE = re.compile(r"(/|~|[A-Za-z]:[\\/]|\\\\)[^\n]*")
_NAMES = ("classes", "CLASSES")  # a class may be called `/`
_BILINEAR = 2  # Pillow's number, as image processors name it


@dataclass(frozen=True)
class HubFolder:
    """A written folder.

    Attributes:
        files: Their sizes in bytes, by name.
        measured: The card has the figures of the result.json beside the checkpoint.
    """

    folder: Path
    files: dict[str, int]
    measured: bool

    @property
    def upload_command(self) -> str:
        return f"hf upload YOUR-NAME/{self.folder.absolute().name} {self.folder}"

    def to_json(self) -> dict[str, Any]:
        """Return the folder as plain data, as `rmrkd export --json` writes it."""
        return {"hub": str(self.folder), "hub_files": self.files, "hub_measured": self.measured}


def write_hub_folder(
    checkpoint: Path,
    folder: Path,
    *,
    preset: Preset | None = None,
    dataset: str | None = None,
    scale: Scale | None = None,
    exported: Path | None = None,
) -> HubFolder:
    """Write the network of a checkpoint into a folder, which `eval`, `predict` and others read as they do its file.

    Paths of this machine are reduced to names. The folder is read again, and must give the same logits bit for bit.

    Args:
        preset: As for `load_checkpoint_network`.
        dataset: Built-in data set whose class names and colours are written; None: as in the checkpoint.
        scale: (width, height) that images are fitted into; None: as in the checkpoint.
        exported: An ONNX or TorchScript file of the network, which is copied into the folder.

    Raises:
        RmrkdError: The checkpoint describes no network.
        RunError: A file cannot be written, or the folder gives other logits.
    """
    model = load_checkpoint_network(str(checkpoint), preset, "cpu")
    card = model_card(model, dataset=dataset, scale=scale)
    for note in card.notes:
        log(f"{checkpoint}: {note}")
    meta = _portable_metadata(model, card)
    _save_weights(model, folder / HUB_WEIGHTS)
    _write_json(_config(meta, card), folder / HUB_CONFIG)
    _write_json(_preprocessing(model, card), folder / PREPROCESSING)
    _check_equal(model, folder, card)
    if exported is not None:
        save_atomic(lambda partial: shutil.copyfile(exported, partial), folder / exported.name)
    result = find_result(checkpoint)
    names = [HUB_WEIGHTS, HUB_CONFIG, PREPROCESSING, *([exported.name] if exported is not None else [])]
    text = write_card(folder.absolute().name, model, card, result, names)
    write_text(text, folder / CARD)
    files = {name: (folder / name).stat().st_size for name in (*names, CARD)}
    return HubFolder(folder, files, result is not None)


def find_result(checkpoint: Path) -> Record | None:
    """Return the result.json beside a checkpoint if it was measured with that file, known by its SHA-256."""
    path = checkpoint.parent / RESULT
    if not path.is_file():
        return None
    try:
        record = read_record(path)
    except RmrkdError as error:
        log(f"the model card has no figures: {error.message}")
        return None
    if record.get("checkpoint_sha256") != sha256_of(checkpoint):
        log(f"the model card has no figures: `{path}` was measured with another file")
        return None
    return record


def _portable_metadata(model: CheckpointNetwork, card: ModelCard) -> dict[str, Any]:
    """Return the checkpoint's metadata as JSON has it, with the names of files in place of paths of this machine.

    Raises:
        RmrkdError: The metadata does not describe the network.
    """
    meta: dict[str, Any] = to_plain(model.checkpoint.meta)
    text = meta.get("config")
    if model.checkpoint.network is None and not isinstance(text, str):
        raise RmrkdError(
            f"`{model.checkpoint.path}` does not describe its network, so a folder of it could not be read",
            "export the student.pth of a run",
        )
    if isinstance(text, str):
        config = _without_paths(parse_config_text(text))
        meta["config"] = "\n".join(
            f"{name} = {pprint.pformat(value, width=110, sort_dicts=False)}" for name, value in config.items()
        )
    preset = meta.get("preset")
    if isinstance(preset, dict) and isinstance(preset.get("data"), dict):
        preset["data"].pop("root", None)
    meta |= {"CLASSES": list(card.classes), "PALETTE": [list(colour) for colour in card.palette]}
    meta |= {"kind": STUDENT_KIND, **({"scale": list(card.scale)} if card.scale is not None else {})}
    plain: dict[str, Any] = json.loads(json.dumps(_without_paths(meta), default=str))
    return plain


def _without_paths(value: Any) -> Any:
    """Return a value whose absolute paths are reduced to their last part; texts of several lines are kept."""
    if isinstance(value, Mapping):
        return {key: item if key in _NAMES else _without_paths(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_without_paths(item) for item in value)
    if isinstance(value, str) and _ABSOLUTE.fullmatch(value):
        return ntpath.basename(value.rstrip("/\\"))
    return value


def _save_weights(model: CheckpointNetwork, path: Path) -> None:
    state = require_student(model.checkpoint)
    tensors = {key: value.contiguous().clone() for key, value in state.items()}
    write_safetensors(tensors, path)
    if not holds(path, tensors):
        raise RunError(f"`{path}` differs from what was written to it", "check the disk for errors")


def _config(meta: dict[str, Any], card: ModelCard) -> dict[str, Any]:
    labels = dict(enumerate(card.classes))
    return {
        "library_name": LIBRARY,
        "format": FORMAT,
        "rmrkd_version": __version__,
        "num_labels": len(labels),
        "id2label": {str(number): name for number, name in labels.items()},
        "label2id": {name: number for number, name in labels.items()},
        "palette": [list(colour) for colour in card.palette],
        "image_size": list(card.scale) if card.scale is not None else None,  # (width, height)
        "checkpoint": meta,
    }


def _preprocessing(model: CheckpointNetwork, card: ModelCard) -> dict[str, Any]:
    """Return how images become the network's input, in the words of the hub's image processors."""
    expected = adapter_of(model.network).normalization
    size = {"longest_edge": max(card.scale), "shortest_edge": min(card.scale)} if card.scale is not None else None
    return {
        "do_resize": size is not None,
        "size": size,  # the aspect ratio is kept, and neither edge is longer
        "resample": _BILINEAR,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [value / 255 for value in expected.mean],
        "image_std": [value / 255 for value in expected.std],
        "do_convert_rgb": True,
        "channel_order": "rgb" if expected.rgb else "bgr",  # also of mean and std
    }


def _check_equal(model: CheckpointNetwork, folder: Path, card: ModelCard) -> None:
    """Raise RunError unless the folder gives the network's logits, bit for bit."""
    read = load_checkpoint_network(str(folder / HUB_WEIGHTS), None, "cpu")
    image = torch.from_numpy(normalize(synthetic_images(check_size(card.scale), 1)))
    with torch.inference_mode():
        logits = [segment(network.eval(), image) for network in (model.network, read.network)]
    if not torch.equal(*logits):
        raise RunError(f"`{folder}` gives other logits than `{model.checkpoint.path}`", "report this as a bug of rmrkd")


def _write_json(contents: dict[str, Any], path: Path) -> None:
    write_text(json.dumps(contents, indent=2, ensure_ascii=False) + "\n", path)
