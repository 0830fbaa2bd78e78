"""DINOv2 of the Hugging Face library transformers: a teacher that gives feature maps and no logits.

It is built from the values of a folder's `config.json`, and its weights are read from `model.safetensors`. Nothing is
downloaded, and no code of a model is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName, set_adapter
from rmrkd_cli.networks.description import (
    Description,
    check_option_names,
    describe,
    explain_failed_build,
    require_package,
)
from rmrkd_cli.networks.recorded_maps import check_modules, record_maps
from rmrkd_cli.networks.transformers_files import CONFIG, read_normalization, read_options
from rmrkd_cli.presets.fields import STAGES
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

WEIGHTS = "model.safetensors"
_SCALE = "scale"  # an option of rmrkd's own
_OPTIONS = (
    "hidden_size", "num_hidden_layers", "num_attention_heads", "mlp_ratio", "hidden_act", "layer_norm_eps",
    "image_size", "patch_size", "qkv_bias", "use_swiglu_ffn",
)  # fmt: skip
_FURTHER = {"Dinov2Model": ("use_mask_token",), "Dinov2WithRegistersModel": ("num_register_tokens",)}
_MODEL_TYPES = {"Dinov2Model": "dinov2", "Dinov2WithRegistersModel": "dinov2_with_registers"}
_MAX_SCALE = 8.0
_DOWNLOAD = "hf download facebook/dinov2-base --local-dir dinov2-base"
_LAYERS = "encoder.layer."
# Names in published files → names of the layers, since transformers 5.24.
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"attention\.attention\.query\.", "attention.q_proj."),
        (r"attention\.attention\.key\.", "attention.k_proj."),
        (r"attention\.attention\.value\.", "attention.v_proj."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
        (r"mlp\.weights_out\.", "mlp.down_proj."),
    )
)
_JOINED, _PARTS = "mlp.weights_in.", ("mlp.gate_proj.", "mlp.up_proj.")  # one matrix in published files


class TokenAdapter(Adapter):
    """Of a network with `embeddings`, `encoder.layer` and `layernorm`.

    An image is resized bilinearly to the next multiples of the patch size. A map is the tokens of its patches, without
    those of class and registers, after `layernorm`, as in DINOv2's `get_intermediate_layers`.
    """

    only_features = True

    def __init__(self, description: Description, layers: int, scale: float) -> None:
        self.num_classes, self.normalization = description.num_classes, description.normalization
        self.scale = scale
        depths = {stage: -(-layers * stage // len(STAGES)) for stage in STAGES}
        self.modules: dict[MapName, str] = {stage: f"{_LAYERS}{depth - 1}" for stage, depth in depths.items()}
        self.modules |= description.maps

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        patch: Any = network.embeddings.patch_embeddings.patch_size  # type: ignore[union-attr]
        rows, columns = (self._patches(pixels, side) for pixels, side in zip(images.shape[2:], patch, strict=True))
        size = (rows * patch[0], columns * patch[1])
        resized = self.to_input(images)
        if resized.shape[2:] != size:
            resized = F.interpolate(resized, size, mode="bilinear", align_corners=False)
        with record_maps(network, self.modules) as recorded:
            network(resized)
        return {key: self._to_map(network, key, tokens, rows, columns) for key, tokens in recorded.items()}

    def _patches(self, pixels: int, side: int) -> int:
        return max(1, -(-round(pixels * self.scale) // side))

    def _to_map(self, network: nn.Module, key: MapName, tokens: Tensor, rows: int, columns: int) -> Tensor:
        if self.modules[key].startswith(_LAYERS):
            tokens = network.layernorm(tokens)  # type: ignore[operator]
        patches = tokens[:, -rows * columns :].transpose(1, 2)
        return patches.reshape(len(patches), -1, rows, columns)

    def logits(self, network: nn.Module, images: Tensor) -> NoReturn:
        raise RmrkdError(f"`{type(network).__name__}` gives feature maps and no logits", "it can be a teacher only")

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights under published or current names."""
        fitted: dict[str, Tensor] = {}
        for key, value in state.items():
            if key in own or _JOINED not in key:
                fitted[key if key in own else _current_name(key)] = value
            else:
                halves = zip(_PARTS, value.chunk(2), strict=True)
                fitted |= {key.replace(_JOINED, part): half for part, half in halves}
        return FittedWeights(fitted)


def _current_name(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network: options of the preset before those of its folder.

    Raises:
        RmrkdError: transformers is not installed, an option is wrong, or the folder is missing, incomplete or of
            another model.
    """
    name = str(spec.name)
    check_option_names(spec.options, _allowed(name), f"transformers' `{name}`", {})
    _check_folder(spec)
    published = read_options(spec, _MODEL_TYPES[name], _allowed(name))
    options = {_SCALE: 1.0, **published, **spec.options}
    return describe("transformers", name, options, num_classes, spec.maps, read_normalization(spec))


def build_network(description: Description, *, name: str, max_parameters: int, hint: str) -> nn.Module:
    """Build a network with random initial weights; see `libraries.build_network`.

    Raises:
        RmrkdError: The description is rejected, or transformers cannot build the network.
    """
    require_package("transformers", "transformers", "transformers")
    check_option_names(description.options, _allowed(description.name), f"transformers' `{description.name}`", {})
    options = {_SCALE: 1.0, **description.options}
    scale = options.pop(_SCALE)
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 1 / _MAX_SCALE <= scale <= _MAX_SCALE:
        raise RmrkdError(f"`options.{_SCALE}` must be from {1 / _MAX_SCALE} to {_MAX_SCALE}, got {scale!r:.50}")
    import transformers

    config_class = getattr(transformers, description.name.removesuffix("Model") + "Config")
    with explain_failed_build(name, description.name, max_parameters, hint):
        network: nn.Module = getattr(transformers, description.name)(config_class(**options))
    adapter = TokenAdapter(description, len(network.encoder.layer), scale)  # type: ignore[union-attr, arg-type]
    check_modules(network, adapter.modules)
    return set_adapter(network, adapter)


def weights_source(spec: Network) -> CheckpointSource:
    """Return the file of the weights in the folder that `weights` names; `network_config` checks the folder."""
    return CheckpointSource(path=str(Path(str(spec.weights)) / WEIGHTS))


def _check_folder(spec: Network) -> None:
    """Raise RmrkdError unless `weights` is a folder with the files that are read, or is not given."""
    if spec.weights in (None, "none"):
        return
    folder = Path(str(spec.weights))
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        raise RmrkdError(
            f"the folder `{folder}` of `{spec.name}` {what}; `weights` must be a folder on this machine, with {CONFIG} "
            f"and {WEIGHTS}",
            f"download one: {_DOWNLOAD}",
        )
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise RmrkdError(
            f"the folder `{folder}` of `{spec.name}` has no {' and no '.join(missing)}; pickled weights are not read",
            f"download it whole: {_DOWNLOAD}; or write it with `save_pretrained`",
        )


def _allowed(name: str) -> tuple[str, ...]:
    return (*_OPTIONS, *_FURTHER[name], _SCALE)
