"""Download, check and load the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.checkpoints.mismatch import mismatch_error
from rmrkd_cli.checkpoints.missing_student import require_student
from rmrkd_cli.checkpoints.reader import key_mismatch, read_checkpoint
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import FittedWeights, adapter_of
from rmrkd_cli.networks.hub import WEIGHT_FILES, fetch_hub_file
from rmrkd_cli.networks.mmseg_adapter import fit_backbone
from rmrkd_cli.networks.mmseg_zoo import zoo_url
from rmrkd_cli.presets.network_schema import CheckpointSource
from rmrkd_cli.storage.cache import fetch, sha256_of
from rmrkd_cli.storage.download import Progress

_PARTIAL_HINT = "load the matching tensors with --allow-partial"


def fetch_weights(source: CheckpointSource, role: str, on_progress: Progress | None = None) -> Path:
    """Return the file of a checkpoint, downloaded into a cache if it is a URL or on the Hugging Face hub.

    Args:
        role: "teacher" or "student", for the command line option in the hint.

    Raises:
        RmrkdError: The download failed.
    """
    if source.path is not None:
        return Path(source.path)
    hint = f"give a file with --{role}-checkpoint FILE"
    if source.hub is not None:
        return fetch_hub_file(source.hub, *WEIGHT_FILES, hint=hint)
    return fetch(str(source.url), str(source.sha256), on_progress, hint)


def load_weights(
    network: nn.Module, source: CheckpointSource, *, role: str, may_be_backbone: bool | None = None
) -> dict[str, str]:
    """Load a checkpoint, which must match the network.

    Args:
        role: "teacher" or "student", for messages.
        may_be_backbone: Weights of the backbone alone are enough; None: for a student.

    Returns:
        `source` and `sha256` of the file; `partial` has the mismatch that `source.allow_partial` allowed.

    Raises:
        RmrkdError: The checkpoint cannot be downloaded or read, or does not match the network.
    """
    path = fetch_weights(source, role)
    fitted = _fit(network, require_student(read_checkpoint(path, lazy=True)), role, may_be_backbone)
    mismatch = _load(network, fitted, str(path), role, partial=source.allow_partial)
    record = {"source": source.url or source.hub or str(path), "sha256": sha256_of(path)}
    return {**record, "partial": mismatch} if mismatch else record


def check_weights(
    network: nn.Module, source: CheckpointSource, *, role: str, may_be_backbone: bool | None = None
) -> None:
    """Check that `load_weights` with the same arguments will succeed; compare names and shapes only.

    Args:
        network: Its values do not matter.

    Raises:
        RmrkdError: As `load_weights`.
    """
    path = fetch_weights(source, role)
    checkpoint = read_checkpoint(path, lazy=True)
    fitted = _fit(network, require_student(checkpoint), role, may_be_backbone)
    own, state = _covered(network.state_dict(), fitted), fitted.state
    mismatch = key_mismatch(own, state, str(path), fitted.ignore)
    any_match = any(key in state and state[key].shape == own[key].shape for key in own)
    if mismatch and not (source.allow_partial and any_match):
        mismatch += f"\n  {checkpoint.note}" if checkpoint.note else ""
        raise mismatch_error(mismatch, own, state, str(path), hint=_file_hint(role), partial_hint=_PARTIAL_HINT)


def _fit(network: nn.Module, state: Mapping[str, Tensor], role: str, may_be_backbone: bool | None) -> FittedWeights:
    is_start = role == "student" if may_be_backbone is None else may_be_backbone
    return adapter_of(network).fit_weights(network.state_dict(), state, is_student=is_start)


def _load(network: nn.Module, fitted: FittedWeights, path: str, role: str, *, partial: bool = False) -> str:
    """Load weights, and return the mismatch that `partial` allowed, or ""."""
    whole = network.state_dict()
    own, state = _covered(whole, fitted), fitted.state
    mismatch = key_mismatch(own, state, path, fitted.ignore)
    matching = {key: state[key] for key in own if key in state and own[key].shape == state[key].shape}
    if mismatch and not (partial and matching):
        raise mismatch_error(mismatch, own, state, path, hint=_file_hint(role), partial_hint=_PARTIAL_HINT)
    network.load_state_dict({**whole, **matching})
    return mismatch


def _covered(own: Mapping[str, Tensor], fitted: FittedWeights) -> dict[str, Tensor]:
    """Return the part of a state dict that the weights must cover."""
    return {key: value for key, value in own.items() if key.startswith(fitted.prefix)}


def _file_hint(role: str) -> str:
    return f"give another file with --{role}-checkpoint FILE"


def imagenet_url(config: Mapping[str, Any], role: str) -> str:
    """Return the URL of the ImageNet backbone that a config from `network_config` names.

    Raises:
        RmrkdError: It names none.
    """
    pretrained = config.get("pretrained")
    if pretrained is None:
        raise RmrkdError(
            f"the {role}'s config names no ImageNet weights",
            f"start from random weights with --set {role}.init=scratch",
        )
    return zoo_url(pretrained)


def fetch_imagenet(config: Mapping[str, Any], role: str, on_progress: Progress | None = None) -> tuple[str, Path]:
    """Return the URL and the downloaded file of the ImageNet backbone that a config from `network_config` names."""
    url = imagenet_url(config, role)
    digest = url.rsplit("-", 1)[-1].removesuffix(".pth")
    hint = f"start without it with --{role}-checkpoint none"
    hint += ", or give a file with --student-checkpoint FILE" if role == "student" else ""
    return url, fetch(url, digest, on_progress, hint)


def load_imagenet_backbone(network: nn.Module, config: Mapping[str, Any], role: str) -> str:
    """Load the ImageNet weights that a config names into the backbone, and return their URL."""
    url, path = fetch_imagenet(config, role)
    _load(network, fit_backbone(read_checkpoint(path, lazy=True).state), str(path), role)
    return url
