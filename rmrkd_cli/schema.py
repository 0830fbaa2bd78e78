"""The one schema of presets and method recipes; every default lives here and nowhere else."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    create_model,
    field_validator,
    model_validator,
)

DATASETS = ("cityscapes", "voc12aug", "camvid", "ade20k", "demo", "custom")
DATASET_ALIASES = {"city": "cityscapes", "voc": "voc12aug", "ade": "ade20k"}
ROLES = ("teacher", "baseline", "distill", "all")
OWN_METHOD = "rmrkd"  # the losses of the preset itself

DatasetName = Literal["cityscapes", "voc12aug", "camvid", "ade20k", "demo", "custom"]
Role = Literal["teacher", "baseline", "distill", "all"]


def _no_switch(value: object) -> object:
    """YAML reads `yes` and `true` as a switch, which Python would count as 1."""
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


_OFF = BeforeValidator(lambda value: "off" if value is False else value)  # YAML reads `off` as a switch
Amp = Annotated[Literal["off", "bf16", "fp16"], _OFF]
Cache = Annotated[Literal["off", "ram", "disk"], _OFF]
Stage = Annotated[int, Field(ge=1, le=4), BeforeValidator(_no_switch)]
Weight = Annotated[float, Field(ge=0.0), BeforeValidator(_no_switch)]
Positive = Annotated[float, Field(gt=0.0), BeforeValidator(_no_switch)]
Count = Annotated[int, Field(ge=1), BeforeValidator(_no_switch)]
LabelResize = Literal["bilinear", "nearest"]


class Strict(BaseModel):
    """Unknown keys are errors at every depth; infinities and NaN are no numbers."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, validate_default=False, defer_build=True)


class CheckpointSource(Strict):
    """Where weights come from: an https address with the start of the file's SHA-256, or a file."""

    url: str | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    path: str | None = None
    allow_partial: bool = False  # load what fits, where it does not cover the network

    @model_validator(mode="after")
    def _one_source(self) -> CheckpointSource:
        if (self.url is None) == (self.path is None):
            raise ValueError("give either `url` or `path`")
        if self.url is not None and not self.url.startswith("https://"):
            raise ValueError("`url` must begin with https://")
        if self.url is not None and self.sha256 is None:
            raise ValueError("`url` needs `sha256`, at least the first 8 hex digits")
        return self


class Schedule(Strict):
    """SGD with a polynomial learning rate, as mmsegmentation's 40k schedule."""

    iters: Count = 40000
    batch_size: Count = 2  # images a worker process a forward pass
    accumulate: Count = 1  # forward passes an optimizer step
    crop: tuple[Count, Count] = (512, 512)  # height, width in pixels
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.9
    weight_decay: Weight = 5e-4
    power: Positive = 0.9
    min_lr: Weight = 1e-4
    clip_grad: Positive | None = None  # largest gradient norm; none: not clipped
    eval_interval: Count = 4000
    checkpoint_interval: Count = 4000
    log_interval: Count = 50
    workers: Annotated[int, Field(ge=0)] = 2  # loader processes a worker process
    amp: Amp = "off"
    keep: Count = 2  # newest `iter_N.pth` files to keep
    skip_nonfinite: bool = False  # leave out the update of a step whose losses or gradient are not finite
    skip_corrupt: bool = False  # put the next image in the place of a training image that cannot be read


PartialSchedule = create_model(  # type: ignore[call-overload]
    "PartialSchedule",
    __base__=Strict,
    **{name: (field.annotation | None, None) for name, field in Schedule.model_fields.items()},  # type: ignore[operator]
)


class Network(Strict):
    """A config shipped inside mmsegmentation, and what differs from it."""

    config: str
    overrides: dict[str, JsonValue] = {}  # dotted path below `model` -> value
    checkpoint: CheckpointSource | None = None
    init: Literal["imagenet", "scratch"] = "imagenet"  # the backbone, where no checkpoint is named


class Teacher(Network):
    """The large network; without a checkpoint the preset trains its own."""

    schedule: PartialSchedule | None = None
    reported_miou: Annotated[float, Field(ge=0.0, le=100.0)] | None = None  # percent, as the checkpoint's source says
    min_miou: Annotated[float, Field(ge=0.0, le=100.0)] | None = None  # below, it does not teach; none: half of that


class RMRKDSpec(Strict):
    type: Literal["rmrkd"]
    stage: Stage = 4
    weight: Weight = 1.0
    tau: Positive = 0.1
    label_resize: LabelResize = "bilinear"
    softmax_over: Literal["rows", "positions"] = "rows"


class MGDSpec(Strict):
    type: Literal["mgd"]
    stage: Stage = 4
    weight: Weight = 2e-5
    mask_ratio: Annotated[float, Field(ge=0.0, le=1.0)] = 0.75


class DKDSpec(Strict):
    type: Literal["dkd"]
    stage: Literal["logits"] = "logits"
    weight: Weight = 1.0
    tau: Positive = 4.0
    target_weight: Weight = 4.0
    non_target_weight: Weight = 4.0


class IDDSpec(Strict):
    type: Literal["idd"]
    stage: Stage = 4
    weight: Weight = 0.5
    label_resize: LabelResize = "bilinear"
    present_only: bool = False


class IFVDSpec(Strict):
    type: Literal["ifvd"]
    stage: Stage = 4
    weight: Weight = 10.0
    label_resize: LabelResize = "nearest"
    align: bool = False


LossSpec = Annotated[RMRKDSpec | MGDSpec | DKDSpec | IDDSpec | IFVDSpec, Field(discriminator="type")]


def _check_loss_names(losses: dict[str, LossSpec]) -> dict[str, LossSpec]:
    for name in losses:
        if not name.isidentifier() or name in ("ce", "aux_ce"):
            raise ValueError(f"`{name}` cannot name a loss: letters, digits and _, and neither `ce` nor `aux_ce`")
    return losses


Losses = Annotated[dict[str, LossSpec], AfterValidator(_check_loss_names)]
Colour = Annotated[int, Field(ge=0, le=255)]


class Folder(Strict):
    """One split of a `custom` data set, relative to its root."""

    images: str
    labels: str
    names: str | None = None  # a text file with one name a line, without suffix; none: every image


CUSTOM_ONLY = ("image_suffix", "label_suffix", "ignore_labels")  # keys of `data` that other data sets do not read


class Data(Strict):
    """Where the images are, and how they are scaled; the rest only for the data set `custom`."""

    root: str | None = None
    train_scale: tuple[Count, Count] | None = None  # width, height before the random ratio; none: the data set's
    eval_scale: tuple[Count, Count] | None = None
    ratio_range: tuple[Positive, Positive] = (0.5, 2.0)
    cache: Cache = "off"  # where decoded training images are kept
    classes: Annotated[list[str], Field(min_length=1, max_length=255)] | None = None
    palette: list[tuple[Colour, Colour, Colour]] | None = None
    train: Folder | None = None
    val: Folder | None = None
    test: Folder | None = None
    image_suffix: str = ".jpg"
    label_suffix: str = ".png"
    ignore_labels: list[Annotated[int, Field(ge=0, le=255)]] = [255]

    @field_validator("ratio_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the smaller ratio must come first")
        return value


class Paper(Strict):
    """mIoU in percent, as printed by the authors."""

    baseline: Annotated[float, Field(ge=0.0, le=100.0)]
    distilled: Annotated[float, Field(ge=0.0, le=100.0)]


class Preset(Strict):
    """Everything a run depends on; the resolved form is written beside the run as `config.yaml`."""

    name: str = ""
    title: str = ""
    dataset: DatasetName
    role: Role = "distill"
    method: str = OWN_METHOD
    data: Data = Data()
    teacher: Teacher
    student: Network
    losses: Losses = {}
    schedule: Schedule = Schedule()
    paper: Paper | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    deterministic: bool = False

    @field_validator("dataset", mode="before")
    @classmethod
    def _alias(cls, value: object) -> object:
        return DATASET_ALIASES.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _custom_is_complete(self) -> Preset:
        if self.dataset == "custom":
            missing = [key for key in ("classes", "train", "val") if getattr(self.data, key) is None]
            if missing:
                raise ValueError("dataset `custom` needs " + ", ".join(f"`data.{key}`" for key in missing))
            if self.data.palette is not None and len(self.data.palette) != len(self.data.classes or []):
                raise ValueError("`data.palette` must have as many colours as `data.classes` has names")
        return self

    def schedule_for(self, role: str) -> Schedule:
        """The schedule of a role: a teacher's own keys replace the common ones."""
        if role != "teacher" or self.teacher.schedule is None:
            return self.schedule
        return self.schedule.model_copy(update=self.teacher.schedule.model_dump(exclude_none=True))


class MethodRecipe(Strict):
    """The losses that `--method` puts in place of a preset's own."""

    title: str = ""
    losses: Losses
