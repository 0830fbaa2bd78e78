"""DINOv2 of the Hugging Face library transformers: a teacher that gives feature maps and no logits.

It is built from the values of a folder's `config.json`, and its weights are read from `model.safetensors`. Nothing is
downloaded, and no code of a model is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
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
from rmrkd_cli.networks.recorded_maps import check_modules, map_text, record_maps
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
_WHOLE_LAYER = re.compile(re.escape(_LAYERS) + r"\d+(:input)?")
_NDIM = 4  # of a map
_PROBE = (2, 3)  # patches a side of the image on which places of maps are checked: neither square nor one
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
    those of class and registers. Those of a whole layer pass `layernorm`, as in DINOv2's `get_intermediate_layers`;
    those of a module inside a layer stay as they are.
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
        return {key: self._to_map(network, key, output, (rows, columns)) for key, output in recorded.items()}

    def as_map(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Return tokens (B, N, C) as a map (B, C, h, w): the last h * w of them are those of the patches."""
        rows, columns = size
        if output.ndim != _NDIM - 1 or output.shape[1] < rows * columns:
            return output
        return output[:, -rows * columns :].transpose(1, 2).reshape(len(output), -1, rows, columns)

    def check_places(self, network: nn.Module, placed: Mapping[MapName, str]) -> None:
        """Run an image of a few patches, and check that the modules that a preset names give maps.

        Raises:
            RmrkdError: The output of one is neither tokens nor a map of the patches.
        """
        if not placed:
            return
        patch: Any = network.embeddings.patch_embeddings.patch_size  # type: ignore[union-attr]
        height, width = (count * side for count, side in zip(_PROBE, patch, strict=True))
        image = torch.zeros(1, 3, height, width, device=next(network.parameters()).device)
        for key, module in placed.items():
            with torch.no_grad(), record_maps(network, {key: module}) as recorded:
                network(image)
            output: Any = recorded.get(key)
            if not isinstance(output, Tensor) or self.as_map(output, _PROBE).shape[2:] != _PROBE:
                raise _no_map(key, module, output)

    def _patches(self, pixels: int, side: int) -> int:
        return max(1, -(-round(pixels * self.scale) // side))

    def _to_map(self, network: nn.Module, key: MapName, output: Tensor, size: tuple[int, int]) -> Tensor:
        if _WHOLE_LAYER.fullmatch(self.modules[key]):
            output = network.layernorm(output)  # type: ignore[operator]
        return self.as_map(output, size)

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


def _no_map(key: MapName, module: str, output: Any) -> RmrkdError:
    got = f"of shape {tuple(output.shape)}" if isinstance(output, Tensor) else "no tensor"
    return RmrkdError(
        f"`maps.{map_text(key)}: {module}` is no map: for an image of {_PROBE[0]}x{_PROBE[1]} patches it is {got}",
        f"name a module that gives tokens, such as {_LAYERS}0; rmrkd networks --preset FILE --modules lists them",
    )


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
        raise RmrkdError(
            f"`options.{_SCALE}` must be from {1 / _MAX_SCALE} to {_MAX_SCALE}, got {scale!r:.50}",
            f"--set teacher.options.{_SCALE}=1",
        )
    import transformers

    config_class = getattr(transformers, description.name.removesuffix("Model") + "Config")
    with explain_failed_build(name, description.name, max_parameters, hint):
        settings = config_class(**options)
        _check_sizes(description.name, settings)
        network: nn.Module = getattr(transformers, description.name)(settings)
    adapter = TokenAdapter(description, len(network.encoder.layer), scale)  # type: ignore[union-attr, arg-type]
    check_modules(network, adapter.modules)
    adapter.check_places(network, description.maps)
    return set_adapter(network, adapter)


def _check_sizes(name: str, settings: Any) -> None:
    """Raise RmrkdError unless there is a layer, and the position embeddings form a square."""
    layers, patch, image = settings.num_hidden_layers, *(_sides(settings, key) for key in ("patch_size", "image_size"))
    wrong = ""
    if layers < 1:
        wrong = f"`num_hidden_layers` of `{name}` must be at least 1, got {layers}"
    elif len(patch) != 2 or min(patch) < 1:
        wrong = f"`patch_size` of `{name}` must be at least 1, got {settings.patch_size}"
    elif len(image) != 2 or len(set(grid := [pixels // side for pixels, side in zip(image, patch, strict=True)])) > 1:
        wrong = f"`image_size` of `{name}` must have as many patches in height as in width, got {settings.image_size}"
    elif grid[0] < 1:
        wrong = f"`image_size` of `{name}` must be at least `patch_size`, got {settings.image_size} and {patch[0]}"
    if wrong:
        raise RmrkdError(wrong, f"correct it in `options` of the preset, or in {CONFIG} of the folder")


def _sides(settings: Any, key: str) -> tuple[int, ...]:
    value = getattr(settings, key)
    return tuple(value) if isinstance(value, (list, tuple)) else (value, value)


def weights_source(spec: Network) -> CheckpointSource:
    """Return the file of the weights in the folder that `weights` names; `network_config` checks the folder."""
    return CheckpointSource(path=str(Path(str(spec.weights)) / WEIGHTS))


def _check_folder(spec: Network) -> None:
    """Raise RmrkdError unless `weights` is a folder with the files that are read, or is not given."""
    if spec.weights in (None, "none"):
        return
    folder = Path(str(spec.weights))
    if not folder.is_dir():
        hint = f"download one: {_DOWNLOAD}"
        if folder.exists():
            raise RmrkdError(f"`weights` of `{spec.name}` must be a folder, got the file `{folder}`", hint)
        raise RmrkdError(
            f"the folder `{folder}` of `{spec.name}` does not exist; `weights` must be a folder on this machine, with "
            f"{CONFIG} and {WEIGHTS}",
            hint,
        )
    missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if missing:
        raise RmrkdError(
            f"the folder `{folder}` of `{spec.name}` has no {' and no '.join(missing)}; pickled weights are not read",
            f"download it whole: {_DOWNLOAD}; or write it with `save_pretrained`",
        )


def _allowed(name: str) -> tuple[str, ...]:
    return (*_OPTIONS, *_FURTHER[name], _SCALE)
