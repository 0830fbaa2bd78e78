"""The losses a preset may name, each with its options and their defaults."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, JsonValue, Tag

from rmrkd_cli.presets.base import Strict
from rmrkd_cli.presets.fields import (
    AUTO,
    CodeName,
    FeatureMap,
    FeatureMapOrMaps,
    FeatureMaps,
    LabelResize,
    LogitsMap,
    LossWeight,
    OneOrTwo,
    Positive,
    PositiveCount,
    Share,
    Weight,
)


class RMRKDSpec(Strict):
    type: Literal["rmrkd"]
    stage: FeatureMap = 4
    weight: LossWeight = 1.0
    tau: Positive = 0.1
    label_resize: LabelResize = "bilinear"
    softmax_over: Literal["rows", "positions"] = "rows"


class MGDSpec(Strict):
    type: Literal["mgd"]
    stage: FeatureMap = 4
    weight: LossWeight = 2e-5
    mask_ratio: Share = 0.75


class DKDSpec(Strict):
    type: Literal["dkd"]
    stage: LogitsMap = "logits"
    weight: LossWeight = 1.0
    tau: Positive = 4.0
    target_weight: Weight = 4.0
    non_target_weight: Weight = 4.0


class IDDSpec(Strict):
    type: Literal["idd"]
    stage: FeatureMap = 4
    weight: LossWeight = AUTO
    label_resize: LabelResize = "bilinear"
    present_only: bool = False


class IFVDSpec(Strict):
    type: Literal["ifvd"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO
    label_resize: LabelResize = "nearest"
    align: bool = False


class KDSpec(Strict):
    type: Literal["kd"]
    stage: LogitsMap = "logits"
    weight: LossWeight = AUTO
    tau: Positive = 1.0
    reduction: Literal["pixels", "elements", "skd", "mmrazor", "mmrazor-mean"] = "pixels"


class CWDSpec(Strict):
    type: Literal["cwd"]
    stage: FeatureMap = "logits"
    weight: LossWeight = AUTO
    tau: Positive = 4.0
    align: Literal["conv", "conv-bn-relu"] = "conv"  # of feature maps; logits have none
    divide_by: Literal["teacher", "student"] = "teacher"  # whose channels


class SKDSpec(Strict):
    type: Literal["skd"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO
    nodes: Literal["2x2", "half"] = "2x2"  # what is pooled into one
    detach_norm: bool = False


class AdversarialSpec(Strict):
    type: Literal["adversarial"]
    stage: LogitsMap = "logits"
    weight: LossWeight = AUTO
    objective: Literal["hinge", "wgan-gp"] = "hinge"
    discriminator_weight: Weight = 0.1
    discriminator_lr: Positive = 4e-4


class ATSpec(Strict):
    type: Literal["at"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO


class FitNetSpec(Strict):
    type: Literal["fitnet"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO


class PSDSpec(Strict):
    type: Literal["psd"]
    stage: FeatureMaps = ["aux", "head", "logits"]
    weight: LossWeight = AUTO


class CSDSpec(Strict):
    type: Literal["csd"]
    stage: LogitsMap = "logits"
    weight: LossWeight = AUTO
    tau: Positive = 4.0


class DISTSpec(Strict):
    type: Literal["dist"]
    stage: LogitsMap = "logits"
    weight: LossWeight = AUTO
    tau: Positive = 1.0
    beta: Weight = 1.0
    gamma: Weight = 1.0
    intra_over: Literal["positions", "images"] = "positions"


class PKDSpec(Strict):
    type: Literal["pkd"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO


class CIRKDSpec(Strict):
    type: Literal["cirkd"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO
    tau: Positive = 0.1
    pool: OneOrTwo = 1  # positions a side that are averaged into one


class CIRKDMemorySpec(Strict):
    type: Literal["cirkd_memory"]
    stage: FeatureMap = "head"
    weight: LossWeight = AUTO
    tau: Positive = 0.1
    pixel_queue: PositiveCount = 20_000  # vectors a class
    region_queue: PositiveCount = 2_000
    pixels_pushed: PositiveCount = 16  # at most, an image and class
    pixel_samples: PositiveCount = 4_096  # of all classes together
    region_samples: PositiveCount = 1_024
    pixel_weight: Weight = 1.0
    region_weight: Weight = 1.0
    enqueue: Literal["class", "released"] = "class"


CODE = "path/to/file.py:Class"


class CodeSpec(Strict):
    """A loss of one's own: a class in a Python file, which runs only where the command line names the file."""

    type: CodeName
    stage: FeatureMapOrMaps = 4
    weight: LossWeight = AUTO
    options: Annotated[dict[str, JsonValue], Field(max_length=50)] = {}


def _kind(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if not isinstance(kind, str):
        return None
    return CODE if is_code(kind) else kind


def is_code(kind: str) -> bool:
    """Whether a loss's type is `path/to/file.py:Class`."""
    return ".py:" in kind


def code_file(kind: str) -> str:
    """The file of such a type."""
    return kind.rpartition(":")[0]


LossSpec = Annotated[
    Annotated[RMRKDSpec, Tag("rmrkd")]
    | Annotated[MGDSpec, Tag("mgd")]
    | Annotated[DKDSpec, Tag("dkd")]
    | Annotated[IDDSpec, Tag("idd")]
    | Annotated[IFVDSpec, Tag("ifvd")]
    | Annotated[KDSpec, Tag("kd")]
    | Annotated[CWDSpec, Tag("cwd")]
    | Annotated[SKDSpec, Tag("skd")]
    | Annotated[AdversarialSpec, Tag("adversarial")]
    | Annotated[ATSpec, Tag("at")]
    | Annotated[FitNetSpec, Tag("fitnet")]
    | Annotated[PSDSpec, Tag("psd")]
    | Annotated[CSDSpec, Tag("csd")]
    | Annotated[DISTSpec, Tag("dist")]
    | Annotated[PKDSpec, Tag("pkd")]
    | Annotated[CIRKDSpec, Tag("cirkd")]
    | Annotated[CIRKDMemorySpec, Tag("cirkd_memory")]
    | Annotated[CodeSpec, Tag(CODE)],
    Discriminator(_kind),
]


def _check_loss_names(losses: dict[str, LossSpec]) -> dict[str, LossSpec]:
    for name in losses:
        if not name.isidentifier() or len(name) > 100 or name in ("ce", "aux_ce"):
            raise ValueError(f"`{name}` cannot name a loss: letters, digits and _, and neither `ce` nor `aux_ce`")
    return losses


Losses = Annotated[dict[str, LossSpec], Field(max_length=20), AfterValidator(_check_loss_names)]
