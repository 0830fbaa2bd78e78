"""SegFormer of the Hugging Face library transformers; DINOv2 is in `transformers_features.py`.

The stages 1 to 4 are those of the encoder (strides 4, 8, 16, 32), `head` is the input of the decode head's classifier.
Only values of a model's `config.json` are read: no code of a model is run.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.installation.requirements import install_extra_command
from rmrkd_cli.networks import transformers_features
from rmrkd_cli.networks.adapter import Adapter, FittedWeights, MapName, set_adapter
from rmrkd_cli.networks.description import (
    Description,
    check_option_names,
    describe,
    explain_failed_build,
    read_description,
    require_package,
)
from rmrkd_cli.networks.hub import WEIGHT_FILES
from rmrkd_cli.networks.recorded_maps import check_modules, record_maps
from rmrkd_cli.networks.transformers_files import HINT, is_hub_model, read_config, read_normalization, read_options
from rmrkd_cli.networks.weight_names import file_has
from rmrkd_cli.presets.network_schema import FEATURE_CLASSES, CheckpointSource, Network

CLASSES = ("SegformerForSemanticSegmentation",)
NAMES = (*CLASSES, *FEATURE_CLASSES)
_LISTS = (
    "depths",
    "hidden_sizes",
    "num_attention_heads",
    "sr_ratios",
    "patch_sizes",
    "strides",
    "mlp_ratios",
)  # one number for each stage
_OPTIONS = (
    *_LISTS, "decoder_hidden_size", "hidden_act", "hidden_dropout_prob", "attention_probs_dropout_prob",
    "classifier_dropout_prob", "drop_path_rate", "layer_norm_eps", "initializer_range",
)  # fmt: skip
_NO_OPTION = {
    "num_labels": "the data set has the number of classes",
    "id2label": "the data set has the names of the classes",
    "num_channels": "images have 3 channels",
    "num_encoder_blocks": "`depths` has one number for each block",
}
_HEAD: dict[MapName, str] = {"head": "decode_head.classifier:input"}
_ENCODER, _DECODER = "segformer.", "decode_head."
# Names in published files → names of the layers. transformers renames them when it reads a file, since version 5.10.
_RENAMED = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (r"encoder\.patch_embeddings\.(\d+)\.", r"stages.\1.patch_embeddings."),
        (r"encoder\.block\.(\d+)\.", r"stages.\1.blocks."),
        (r"encoder\.layer_norm\.(\d+)\.", r"stages.\1.layer_norm."),
        (r"attention\.self\.query\.", "attention.q_proj."),
        (r"attention\.self\.key\.", "attention.k_proj."),
        (r"attention\.self\.value\.", "attention.v_proj."),
        (r"attention\.self\.sr\.", "attention.sequence_reduction.sequence_reduction."),
        (r"attention\.self\.layer_norm\.", "attention.sequence_reduction.layer_norm."),
        (r"attention\.output\.dense\.", "attention.o_proj."),
        (r"mlp\.dense1\.", "mlp.fc1."),
        (r"mlp\.dense2\.", "mlp.fc2."),
        (r"\.layer_norm_1\.", ".layernorm_before."),
        (r"\.layer_norm_2\.", ".layernorm_after."),
        (r"^decode_head\.linear_c\.", "decode_head.linear_projections."),
    )
)


class SegformerAdapter(Adapter):
    """Of a network with `segformer.stages` and `decode_head`."""

    def __init__(self, description: Description) -> None:
        self.num_classes, self.normalization = description.num_classes, description.normalization
        self.modules = {**_HEAD, **description.maps}

    def maps(self, network: nn.Module, images: Tensor, *, auxiliary: bool = False) -> dict[MapName, Tensor]:
        with record_maps(network, self.modules) as recorded:
            stages = _stages(network, self.to_input(images))
            logits = network.decode_head(stages)  # type: ignore[operator]
        return {**dict(enumerate(stages, 1)), **recorded, "logits": logits}

    def logits(self, network: nn.Module, images: Tensor) -> Tensor:
        logits: Tensor = network.decode_head(_stages(network, self.to_input(images)))  # type: ignore[operator]
        return logits

    def fit_weights(self, own: Mapping[str, Tensor], state: Mapping[str, Tensor], *, is_student: bool) -> FittedWeights:
        """Fit weights under published or current names, of a whole network or of a classification network."""
        renamed = {_current_name(key): value for key, value in state.items()}
        if not is_student or any(key.startswith(_DECODER) for key in renamed):
            return FittedWeights(renamed)
        return FittedWeights(renamed, prefix=_ENCODER, ignore=("classifier.",))


def _stages(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
    """Return the encoder's maps (B, C, h, w), one for each stage."""
    maps, features = [], images
    for stage in network.segformer.stages:  # type: ignore[union-attr]
        features = stage(features)
        maps.append(features)
    return tuple(maps)


def _current_name(key: str) -> str:
    for pattern, name in _RENAMED:
        key = pattern.sub(name, key)
    return key


def network_config(spec: Network, num_classes: int) -> dict[str, Any]:
    """Return the description of a preset's network: options of the preset before those of its weights.

    Raises:
        RmrkdError: transformers is not installed, or has no such class or option, or the `config.json` of the weights
            cannot be read.
    """
    if spec.name in FEATURE_CLASSES:
        return transformers_features.network_config(spec, num_classes)
    config_class = _config_class(str(spec.name))
    check_option_names(spec.options, _OPTIONS, f"transformers' `{spec.name}`", _NO_OPTION)
    published = read_options(spec, "segformer", _OPTIONS)
    options = _checked_options(config_class, {**published, **spec.options})
    return describe("transformers", str(spec.name), options, num_classes, spec.maps, read_normalization(spec))


def build_network(config: Mapping[str, Any], *, device: str, name: str, max_parameters: int, hint: str) -> nn.Module:
    """Build a network with random initial weights; see `libraries.build_network`."""
    description = read_description(config, name, hint)
    if description.name in FEATURE_CLASSES:
        return transformers_features.build_network(description, name=name, max_parameters=max_parameters, hint=hint)
    config_class = _config_class(description.name)
    check_option_names(description.options, _OPTIONS, f"transformers' `{description.name}`", _NO_OPTION)
    options = _checked_options(config_class, description.options)
    from transformers import SegformerForSemanticSegmentation

    settings = config_class(**options, num_encoder_blocks=len(options["depths"]), num_labels=description.num_classes)
    with explain_failed_build(name, description.name, max_parameters, hint):
        network: nn.Module = SegformerForSemanticSegmentation(settings)
    if not hasattr(network.segformer, "stages"):
        raise RmrkdError("this version of transformers is too old for rmrkd", install_extra_command("transformers"))
    check_modules(network, description.maps)
    return set_adapter(network, SegformerAdapter(description))


def weights_source(spec: Network, role: str) -> CheckpointSource:
    """Return the file that `weights` names: a file, a folder of `save_pretrained`, or a model on the hub.

    Raises:
        RmrkdError: The folder has no weights.
    """
    if spec.name in FEATURE_CLASSES:
        return transformers_features.weights_source(spec)
    text = str(spec.weights)
    path = Path(text)
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if (path / name).is_file()]
        if not found:
            raise RmrkdError(f"`{role}.weights`: the folder `{text}` has no {' or '.join(WEIGHT_FILES)}", HINT)
        return CheckpointSource(path=str(found[0]))
    if is_hub_model(text):
        return CheckpointSource(hub=text)
    return CheckpointSource(path=text)


def is_whole(spec: Network) -> bool:
    """Return whether `weights` are those of the whole network, not of a classification network."""
    if spec.name in FEATURE_CLASSES:
        return True
    if config := read_config(spec):
        return any(name in CLASSES for name in config.get("architectures") or ())
    return file_has(str(spec.weights), (_DECODER,))


def _config_class(name: str) -> Any:
    require_package("transformers", "transformers", "transformers")
    if name not in CLASSES:
        raise RmrkdError(
            f"`library: transformers` has no class `{name:.80}`; {did_you_mean(name, NAMES)}",
            f"known: {', '.join(NAMES)}",
        )
    from transformers import SegformerConfig

    return SegformerConfig


def _checked_options(config_class: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all options with the library's defaults.

    Raises:
        RmrkdError: One has the wrong type, or lists differ in length.
    """
    try:
        config = config_class(**options)
    except Exception as error:  # the library's own validation
        text = " ".join(str(error).split())
        raise RmrkdError(f"the options of SegFormer are wrong: {text[:300]}", "see `options` in the preset") from error
    values = {key: getattr(config, key) for key in _OPTIONS}
    values = {key: list(value) if isinstance(value, (list, tuple)) else value for key, value in values.items()}
    lengths = {key: len(values[key]) for key in _LISTS}
    if len(set(lengths.values())) != 1:
        shown = ", ".join(f"`{key}` {length}" for key, length in lengths.items())
        raise RmrkdError(f"the options of SegFormer differ in their number of stages: {shown}", "4 in published models")
    for size, heads in zip(values["hidden_sizes"], values["num_attention_heads"], strict=True):
        if size < 1 or heads < 1 or size % heads:
            raise RmrkdError(
                f"`hidden_sizes` {values['hidden_sizes']} must be multiples of `num_attention_heads` "
                f"{values['num_attention_heads']}"
            )
    return values
