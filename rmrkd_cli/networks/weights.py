"""Download, check and load the weights of a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.checkpoints.mismatch import mismatch_error
from rmrkd_cli.checkpoints.missing_student import require_student
from rmrkd_cli.checkpoints.reader import key_mismatch, load_state_dict_checked, read_checkpoint
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.mmseg_zoo import zoo_url
from rmrkd_cli.presets.schema import CheckpointSource
from rmrkd_cli.storage.cache import fetch, sha256_of
from rmrkd_cli.storage.download import Progress

# Keys of ImageNet files outside the backbone; conv2 is the last layer of mmcls's MobileNetV2, which mmseg's has not.
_EXTRA_PREFIXES = ("fc.", "head.", "classifier.", "conv2.")
_PARTIAL_HINT = "load the matching tensors with --allow-partial"


def fetch_weights(source: CheckpointSource, role: str, on_progress: Progress | None = None) -> Path:
    """Return the file of a checkpoint, downloaded into the cache if it is a URL.

    Args:
        role: "teacher" or "student", for the command line option in the hint.

    Raises:
        RmrkdError: The download failed.
    """
    if source.path is not None:
        return Path(source.path)
    return fetch(str(source.url), str(source.sha256), on_progress, f"give a file with --{role}-checkpoint FILE")


def load_weights(network: nn.Module, source: CheckpointSource, *, role: str) -> dict[str, str]:
    """Load a checkpoint, which must match the network; a student's checkpoint may have only its backbone.

    Returns:
        `source` and `sha256` of the file; `partial` has the mismatch that `source.allow_partial` allowed.

    Raises:
        RmrkdError: The checkpoint cannot be downloaded or read, or does not match the network.
    """
    path = fetch_weights(source, role)
    state = require_student(read_checkpoint(path, lazy=True))
    if _is_backbone(state, role):
        mismatch = _load_backbone(network, state, str(path), partial=source.allow_partial)
    else:
        mismatch = load_state_dict_checked(
            network, state, str(path), hint=_file_hint(role), partial_hint=_PARTIAL_HINT, partial=source.allow_partial
        )
    record = {"source": source.url or str(path), "sha256": sha256_of(path)}
    return {**record, "partial": mismatch} if mismatch else record


def check_weights(own: Mapping[str, Tensor], source: CheckpointSource, *, role: str) -> None:
    """Check that `load_weights` will succeed; compare names and shapes only.

    Args:
        own: State dict of the network, whose values do not matter.

    Raises:
        RmrkdError: As `load_weights`.
    """
    path = fetch_weights(source, role)
    checkpoint = read_checkpoint(path, lazy=True)
    state: Mapping[str, Tensor] = require_student(checkpoint)
    ignore: tuple[str, ...] = ()
    if _is_backbone(state, role):
        own = {key.removeprefix("backbone."): own[key] for key in own if key.startswith("backbone.")}
        state, ignore = _backbone_state(state), _EXTRA_PREFIXES
    mismatch = key_mismatch(own, state, str(path), ignore)
    any_match = any(key in state and state[key].shape == own[key].shape for key in own)
    if mismatch and not (source.allow_partial and any_match):
        mismatch += f"\n  {checkpoint.note}" if checkpoint.note else ""
        raise mismatch_error(mismatch, own, state, str(path), hint=_file_hint(role), partial_hint=_PARTIAL_HINT)


def _is_backbone(state: Mapping[str, Tensor], role: str) -> bool:
    return role == "student" and not any(key.startswith(("decode_head.", "auxiliary_head.")) for key in state)


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
    _load_backbone(network, read_checkpoint(path, lazy=True).state, str(path))
    return url


def _load_backbone(network: nn.Module, state: Mapping[str, Tensor], source: str, *, partial: bool = False) -> str:
    backbone: nn.Module = network.backbone  # type: ignore[assignment]
    return load_state_dict_checked(backbone, _backbone_state(state), source, ignore=_EXTRA_PREFIXES, partial=partial)


def _backbone_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("backbone."): value for key, value in state.items()}
