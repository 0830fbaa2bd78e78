"""Encoders of segmentation_models_pytorch: their names, normalization, and weights on the Hugging Face hub."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from rmrkd_cli.data.normalization import IMAGENET, Normalization
from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.networks.hub import is_hub_name

_TIMM = "tu-"
_TIMM_NAME = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?")  # `hf-hub:…` and `local-dir:…` download or open files
_RENAMED = ("timm-regnet", "timm-res2", "timm-resnest", "timm-mobilenetv3", "timm-gernet")  # smp takes timm's
_DIGITS = 9  # of the number of a layer, at most
_HINT = "give a file with weights, or `weights: none`"
_HALF = Normalization([127.5] * 3, [127.5] * 3, rgb=True)
_DPN = Normalization([124.0, 117.0, 104.0], [1 / 0.0167] * 3, rgb=True)
# Encoders of smp that do not expect ImageNet's mean and deviation, by the beginning of their names.
_OTHERS = {
    "dpn": _DPN, "inception": _HALF, "xception": _HALF, "timm-tf_efficientnet_lite": _HALF,
}  # fmt: skip


def check_encoder(name: object) -> None:
    """Raise RmrkdError for an encoder that smp and timm do not have."""
    if not isinstance(name, str):
        raise RmrkdError(f"`encoder_name` must be a name, got {str(name)[:80]}", "such as resnet18 or tu-convnext_tiny")
    known = encoder_names()
    if name in known or name.startswith(_RENAMED):
        return
    import timm

    model = name.removeprefix(_TIMM)
    if name.startswith(_TIMM) and _TIMM_NAME.fullmatch(model) and timm.is_model(model.partition(".")[0]):
        return
    if name.startswith(_TIMM):
        nearest = did_you_mean(model.partition(".")[0], timm.list_models())
        raise RmrkdError(f"timm has no model `{model:.80}`; {nearest}", "tu-NAME takes a model of timm as the encoder")
    raise RmrkdError(
        f"smp has no encoder `{name:.80}`; {did_you_mean(name, known)}", "tu-NAME takes a model of timm as the encoder"
    )


def encoder_names() -> list[str]:
    """Return smp's own encoders."""
    import segmentation_models_pytorch as smp

    return list(smp.encoders.get_encoder_names())


def normalization_of(encoder: str, weights: str | None) -> Normalization:
    """Return what an encoder expects.

    Args:
        weights: Name of its weights, whose description is on the hub; None: those of ImageNet, without a download.
    """
    if weights == "advprop":
        return _HALF
    if (cfg := _timm_config(encoder)) is not None:
        return _normalization([255 * value for value in cfg.mean], [255 * value for value in cfg.std])
    return next((known for start, known in _OTHERS.items() if encoder.startswith(start)), IMAGENET)


def _timm_config(encoder: str) -> Any:
    """Return timm's description of the weights of a `tu-` encoder, or None."""
    import timm

    name = _timm_name(encoder)
    return timm.models.get_pretrained_cfg(name) if name else None


def _timm_name(encoder: str) -> str:
    """Return timm's name of an encoder, or "" for one of smp."""
    if encoder.startswith(_RENAMED):
        encoder = encoder.replace("timm-mobilenetv3", "tu-tf_mobilenetv3").replace("timm-", _TIMM)
    return encoder.removeprefix(_TIMM) if encoder.startswith(_TIMM) else ""


def _normalization(mean: list[float], std: list[float]) -> Normalization:
    found = Normalization([round(value, 3) for value in mean], [round(value, 3) for value in std], rgb=True)
    return IMAGENET if found.matches(IMAGENET) else found


def weights_on_hub(encoder: str, weights: str, role: str) -> str:
    """Return the model on the Hugging Face hub, and its commit, that has an encoder's weights; download nothing.

    Raises:
        RmrkdError: The encoder has no weights of this name.
    """
    import segmentation_models_pytorch as smp

    if _timm_name(encoder):
        cfg = _timm_config(encoder)
        repository = str(getattr(cfg, "hf_hub_id", None) or "")
        if weights not in ("imagenet", "true", "True") or not is_hub_name(repository):
            raise RmrkdError(f"`{role}.weights`: timm has no weights `{weights}` for `{encoder}`", _HINT)
        return repository
    settings = smp.encoders.encoders[encoder]["pretrained_settings"]
    if weights not in settings:
        raise RmrkdError(
            f"`{role}.weights`: smp has no weights `{weights}` for `{encoder}`; {did_you_mean(weights, settings)}",
            f"known: {', '.join(settings)}; or a file, or `none` for random weights",
        )
    published = settings[weights]
    return f"{published['repo_id']}@{published['revision']}"


def layers_of_another_encoder(file: Iterable[str], own: Iterable[str]) -> list[str]:
    """Return the layers in a file that lie between those of an encoder without them, as of a deeper ResNet.

    Layers after the last one of an encoder, such as a classifier, are left out.
    """
    own = set(own)
    last: dict[str, tuple[str, ...]] = {}  # text before the first number → place of the last layer
    for name in own:
        stem, *_ = place = _place(name)
        last[stem] = max(last.get(stem, place), place)
    return [name for name in file if name not in own and _place(name) < last.get(_place(name)[0], ())]


def _place(name: str) -> tuple[str, ...]:
    """Return text and numbers in turns, such that `layer3.10` comes after `layer3.9`."""
    return tuple(part.zfill(_DIGITS) if part.isdigit() else part for part in re.split("([0-9]+)", name))
