"""Say which library's network a state dict belongs to, from the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection

SUPPORTED = "rmrkd reads mmsegmentation's EncoderDecoder with one decode head: keys `backbone.…` and `decode_head.…`"

_Names = Collection[str]


def describe_network(names: _Names) -> str:
    """Return whose network the names belong to, or which part of one; the groups of keys where that is unknown."""
    found = next((what for matches, what in _KINDS if matches(names)), "")
    groups = ", ".join(f"`{group}.`" for group in sorted({name.split(".")[0] for name in names})[:6])
    return f"it looks like {found} (keys {groups})" if found else f"its keys begin with {groups or 'nothing'}"


def is_foreign(names: _Names) -> bool:
    """Return whether the names are those of another library's network."""
    return any(matches(names) for matches, _ in _KINDS)


def _begins(*prefixes: str) -> Callable[[_Names], bool]:
    """Return a test whether some name begins with each prefix."""
    return lambda names: all(any(name.startswith(prefix) for name in names) for prefix in prefixes)


def _any_of(*tests: Callable[[_Names], bool]) -> Callable[[_Names], bool]:
    return lambda names: any(test(names) for test in tests)


def _only(prefix: str) -> Callable[[_Names], bool]:
    return lambda names: bool(names) and all(name.startswith(prefix) for name in names)


def _has(text: str) -> Callable[[_Names], bool]:
    return lambda names: any(text in name for name in names)


# The first that matches is named, so special cases stand before general ones.
_KINDS: tuple[tuple[Callable[[_Names], bool], str], ...] = (
    (_begins("decode_head.0.", "decode_head.1."), "an mmsegmentation network with several decode heads (a cascade)"),
    (_any_of(_begins("encoder.", "decoder.", "segmentation_head.")), "a network of segmentation_models_pytorch"),
    (
        _any_of(
            _begins("decode_head.classifier."), _begins("segformer."), _has("pixel_level_module."),
            _has(".encoder.layer."), _begins("mobilenet_v2.", "segmentation_head."),
        ),
        "a network of Hugging Face transformers",
    ),
    (_begins("backbone.", "bbox_head."), "a detector of MMDetection"),
    (_begins("backbone.", "roi_head."), "a detector of MMDetection"),
    (_begins("backbone.", "rpn_head."), "a detector of MMDetection"),
    (_begins("backbone.", "head."), "a classifier of MMPretrain: a backbone without a decode head"),
    (_begins("backbone.", "classifier."), "a network of torchvision"),
    (_begins("image_encoder.", "mask_decoder."), "Segment Anything"),
    (_has("model.model.22."), "a network of Ultralytics"),
    (_begins("0.conv.", "1.conv."), "a network of Ultralytics"),
    (_begins("decode_head."), "an mmsegmentation network with a decode head of another kind"),
    (_only("backbone."), "a backbone without a decode head"),
    (_begins("conv1.", "layer1.", "layer4."), "a ResNet backbone, such as ImageNet weights"),
    (_any_of(_begins("patch_embed.", "blocks."), _begins("stages.", "stem.")), "a backbone of timm"),
    (_begins("features.", "classifier."), "a classifier of torchvision"),
)  # fmt: skip
