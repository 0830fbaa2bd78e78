"""Networks of segmentation_models_pytorch: an encoder of smp, torchvision or timm, and a decoder.

The stages 1 to 4 are the encoder's features at strides 4, 8, 16 and 32 (8 or 16 where the architecture dilates it),
`head` is the decoder's output. Logits are taken before the library resizes them, by a factor and with aligned corners.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName, set_adapter
from rmrkd_cli.networks.description import (
    Description,
    check_option_names,
    check_size,
    describe,
    explain_failed_build,
    read_description,
    require_package,
)
from rmrkd_cli.networks.limits import MAX_PARAMETERS
from rmrkd_cli.networks.recorded_maps import check_modules, record_maps
from rmrkd_cli.networks.smp_encoders import (
    check_encoder,
    layers_of_another_encoder,
    normalization_of,
    weights_on_hub,
)
from rmrkd_cli.networks.weight_names import file_has, is_file_name
from rmrkd_cli.presets.network_schema import CheckpointSource, Network

ARCHITECTURES = (
    "Unet", "UnetPlusPlus", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "Linknet", "MAnet", "PAN", "UPerNet",
    "Segformer",
)  # fmt: skip
# Why an argument of the library is no option.
_NO_OPTION = {
    "encoder_weights": "`weights` names them, beside `options`",
    "classes": "the data set has the number of classes",
    "in_channels": "images have 3 channels",
    "activation": "the network gives logits",
    "aux_params": "a classification head has no use in segmentation",
    "upsampling": "logits are resized where they are used",
    "kwargs": "arguments of timm cannot be set",
}
_FIRST_STAGE = 2  # encoder features: 0 is the image, 1 has stride 2
_STAGES = 4
_BUILD_FACTOR, _BUILD_MINIMUM = 4, 1 << 26  # smp and timm build layers that they remove again
_ENCODER = "encoder."
_HEADS = ("decoder.", "segmentation_head.")
_PAN_POSITIONS = 8  # PAN halves the encoder's last map three times


class SmpAdapter(Adapter):
    """Of a network with `encoder`, `decoder` and `segmentation_head`.

    Most architectures take only images whose sides are multiples of the encoder's stride. Others are padded with zeros,
    and their logits and maps are cropped.
    """

    align_corners = True  # as smp's own head resizes
    may_skip_layers = True  # those of an encoder that are deeper than `encoder_depth`

    def __init__(self, description: Description) -> None:
        self.num_classes, self.normalization = description.num_classes, description.normalization
        self.modules = description.maps
        self.min_positions = _PAN_POSITIONS if description.name == "PAN" else 1

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        padded = self._pad(network, self.to_input(images))
        with record_maps(network, self.modules) as recorded:
            features = network.encoder(padded)  # type: ignore[operator]
            decoded = network.decoder(features)  # type: ignore[operator]
            logits = network.segmentation_head[0](decoded)  # type: ignore[index, operator]
        stages = list(features)[_FIRST_STAGE : _FIRST_STAGE + _STAGES]
        maps: dict[MapName, Tensor] = {**dict(enumerate(stages, 1)), "head": decoded, **recorded}
        cropped = {name: _crop(each, padded, images) for name, each in maps.items()}
        return {**cropped, "logits": _unpad(logits, padded, images)}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        padded = self._pad(network, self.to_input(images))
        decoded = network.decoder(network.encoder(padded))  # type: ignore[operator]
        return _unpad(network.segmentation_head[0](decoded), padded, images)  # type: ignore[index, operator]

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights of a whole network, or of an encoder with or without `encoder.` before its names."""
        if any(key.startswith(_HEADS) for key in state):
            return FittedWeights(dict(state))
        layers = {_layer(key): key for key in own if key.startswith(_ENCODER)}
        given = {_layer(key): value for key, value in state.items()}
        kept = {layers[layer]: value for layer, value in given.items() if layer in layers}
        if not kept:
            return FittedWeights(dict(state))
        others = {f"{_ENCODER}{layer}": given[layer] for layer in layers_of_another_encoder(given, layers)}
        return FittedWeights(kept | others, prefix=_ENCODER if is_student else "")

    def _pad(self, network: nn.Module, images: Tensor) -> Tensor:
        if not network.requires_divisible_input_shape:
            return images
        stride = int(network.encoder.output_stride)  # type: ignore[union-attr, arg-type]
        height, width = images.shape[2:]
        if _any_size():
            return F.pad(images, (0, -width % stride, 0, -height % stride))
        down, right = (max(-side % stride, self.min_positions * stride - side) for side in (height, width))
        return F.pad(images, (0, right, 0, down)) if down or right else images


def _layer(key: str) -> str:
    """Return the name of a layer inside of the encoder, without the dots that timm replaces in some of them."""
    return key.removeprefix(_ENCODER).removeprefix("model.").replace(".", "_")


def _any_size() -> bool:
    """Return whether the sizes are those of an example, from which a file for any size is written."""
    return bool(torch.compiler.is_exporting() or torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]


def _unpad(logits: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Return logits of the images, at their size, where the images were padded."""
    if padded.shape[2:] == images.shape[2:] and not _any_size():
        return logits
    resized = F.interpolate(logits, padded.shape[2:], mode="bilinear", align_corners=True)
    return resized[:, :, : images.shape[2], : images.shape[3]]


def _crop(feature_map: Tensor, padded: Tensor, images: Tensor) -> Tensor:
    """Return the positions of a map that begin inside of the images."""
    if padded.shape[2:] == images.shape[2:] or feature_map.ndim != 4:
        return feature_map
    rows, columns = (-(-images.shape[axis] * feature_map.shape[axis] // padded.shape[axis]) for axis in (2, 3))
    return feature_map[:, :, :rows, :columns]


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network, with all options.

    Raises:
        RmrkdError: smp is not installed, or has no such architecture, encoder or option.
    """
    name = str(spec.name)
    allowed = _options(name)
    check_option_names(spec.options, allowed, f"smp's `{name}`", _NO_OPTION)
    options = {**allowed, **spec.options}
    check_encoder(options["encoder_name"])
    normalization = normalization_of(options["encoder_name"], _encoder_weights(spec))
    return describe("smp", name, options, num_classes, spec.maps, normalization)


def build_network(config: Mapping[str, Any], *, device: str, name: str, max_parameters: int, hint: str) -> nn.Module:
    """Build a network with random initial weights; see `libraries.build_network`."""
    description = read_description(config, name, hint)
    architecture = _architecture(description.name)
    check_option_names(description.options, _options(description.name), f"smp's `{description.name}`", _NO_OPTION)
    check_encoder(description.options.get("encoder_name", "resnet34"))
    fixed = {"encoder_weights": None, "in_channels": 3, "classes": description.num_classes}
    limit = min(MAX_PARAMETERS, max(_BUILD_FACTOR * max_parameters, _BUILD_MINIMUM))
    with explain_failed_build(name, description.name, limit, hint), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about names of timm that smp has replaced
        network = architecture(**description.options, **fixed)
    check_size(network, max_parameters, name)
    _use_one_pooling(network)
    check_modules(network, description.maps)
    return set_adapter(network, SmpAdapter(description))


def weights_source(spec: Network, role: str) -> CheckpointSource:
    """Return the file that `weights` names: a file, or weights of the encoder on the Hugging Face hub.

    Raises:
        RmrkdError: The encoder has no weights of this name.
    """
    text = str(spec.weights)
    if is_file_name(text):
        return CheckpointSource(path=text)
    encoder = str({**_options(str(spec.name)), **spec.options}["encoder_name"])
    return CheckpointSource(hub=weights_on_hub(encoder, text, role))


def is_whole(spec: Network) -> bool:
    """Return whether `weights` are those of the whole network; those of a name are the encoder's."""
    text = str(spec.weights)
    return is_file_name(text) and file_has(text, _HEADS)


def _encoder_weights(spec: Network) -> str | None:
    weights = spec.weights
    return None if weights is None or weights == "none" or is_file_name(weights) else weights


def _options(name: str) -> dict[str, Any]:
    """Return option → default of an architecture."""
    parameters = inspect.signature(_architecture(name).__init__).parameters
    defaults = {key: each.default for key, each in parameters.items() if key != "self" and key not in _NO_OPTION}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}


def _architecture(name: str) -> type[nn.Module]:
    require_package("segmentation_models_pytorch", "segmentation-models-pytorch", "smp")
    import segmentation_models_pytorch as smp

    if name not in ARCHITECTURES:
        raise RmrkdError(
            f"smp has no architecture `{name:.80}`; {did_you_mean(name, ARCHITECTURES)}",
            f"known: {', '.join(ARCHITECTURES)}",
        )
    architecture: type[nn.Module] = inspect.unwrap(getattr(smp, name))
    return architecture


def _use_one_pooling(network: nn.Module) -> None:
    """Let PSPNet pool in ONNX export as it does elsewhere: smp's own way in export fails for other image sizes."""
    from segmentation_models_pytorch.decoders.pspnet.decoder import PSPBlock

    class Block(PSPBlock):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(self.pool(x), size=x.shape[2:], mode="bilinear", align_corners=True)

    for module in network.modules():
        if type(module) is PSPBlock:
            module.__class__ = Block
