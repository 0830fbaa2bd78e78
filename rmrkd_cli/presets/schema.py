"""The one schema of presets and method recipes; every default lives here and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, create_model, field_validator
from pydantic.fields import FieldInfo

from rmrkd_cli.presets.base import Related, Strict
from rmrkd_cli.presets.fields import (
    MAX_PIXELS,
    NUMBER,
    Address,
    Amp,
    Cache,
    ClassName,
    Colour,
    Duration,
    Name,
    Overrides,
    PathText,
    Percent,
    Positive,
    PositiveCount,
    Ratio,
    RelativePath,
    Root,
    Side,
    Steps,
    Suffix,
    Text,
    Weight,
    is_number,
    numbers,
)
from rmrkd_cli.presets.loss_schema import Losses

DATASETS = ("cityscapes", "voc12aug", "camvid", "ade20k", "demo", "custom")
DATASET_ALIASES = {"city": "cityscapes", "voc": "voc12aug", "ade": "ade20k"}
ROLES = ("teacher", "baseline", "distill", "all")
OWN_METHOD = "rmrkd"  # the losses of the preset itself

DatasetName = Literal["cityscapes", "voc12aug", "camvid", "ade20k", "demo", "custom"]
Role = Literal["teacher", "baseline", "distill", "all"]


class CheckpointSource(Related):
    """Where weights come from: an https address with the start of the file's SHA-256, or a file."""

    url: Address | None = None
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{8,64}$")
    path: PathText | None = None
    allow_partial: bool = False  # load what fits, where it does not cover the network

    @classmethod
    def problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        if (raw.get("url") is None) == (raw.get("path") is None):
            yield "give either `url` or `path`"
        if raw.get("url") is not None and raw.get("sha256") is None:
            yield "`url` needs `sha256`, at least the first 8 hex digits"


class Schedule(Related):
    """SGD with a polynomial learning rate, as mmsegmentation's 40k schedule."""

    iters: Steps = 40000
    time_budget: Duration | None = None  # of training steps; `iters` is then only the whole that intervals are parts of
    batch_size: PositiveCount = 2  # images a worker process a forward pass
    accumulate: PositiveCount = 1  # forward passes an optimizer step
    crop: tuple[Side, Side] = (512, 512)  # height, width in pixels
    lr: Positive = 0.01
    momentum: Annotated[float, Field(ge=0.0, lt=1.0), NUMBER] = 0.9
    weight_decay: Weight = 5e-4
    power: Positive = 0.9
    min_lr: Weight = 1e-4
    clip_grad: Positive | None = None  # largest gradient norm; none: not clipped
    eval_interval: Steps = 4000
    checkpoint_interval: Steps = 4000
    log_interval: Steps = 50
    workers: Annotated[int, Field(ge=0, le=256), NUMBER] = 2  # loader processes a worker process
    amp: Amp = "off"
    keep: PositiveCount = 2  # newest `iter_N.pth` files to keep
    skip_nonfinite: bool = False  # leave out the update of a step whose losses or gradient are not finite
    skip_corrupt: bool = False  # put the next image in the place of a training image that cannot be read

    @classmethod
    def problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        crop, batch = numbers(raw.get("crop", cls.model_fields["crop"].default), 2), raw.get("batch_size", 1)
        if crop and is_number(batch) and crop[0] * crop[1] * batch > MAX_PIXELS:
            yield f"a batch of {batch} crops of {crop[0]}x{crop[1]} has more than {MAX_PIXELS} pixels"


def _or_none(field: FieldInfo) -> Any:
    """The type of a key with its bounds, or none."""
    bounded: Any = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
    return bounded | None


PartialSchedule = create_model(  # type: ignore[call-overload]
    "PartialSchedule",
    __base__=Strict,
    __doc__="The keys of a schedule that a role has of its own.",
    **{name: (_or_none(field), None) for name, field in Schedule.model_fields.items()},
)


class Network(Strict):
    """A config shipped inside mmsegmentation, and what differs from it."""

    config: RelativePath
    overrides: Overrides = {}
    checkpoint: CheckpointSource | None = None
    init: Literal["imagenet", "scratch"] = "imagenet"  # the backbone, where no checkpoint is named


class Teacher(Network):
    """The large network; without a checkpoint the preset trains its own."""

    schedule: PartialSchedule | None = None
    reported_miou: Percent | None = None  # percent, as the checkpoint's source says
    min_miou: Percent | None = None  # below, it does not teach; none: half of that


class Folder(Strict):
    """One split of a `custom` data set, relative to its root."""

    images: RelativePath
    labels: RelativePath
    names: RelativePath | None = None  # a text file with one name a line, without suffix; none: every image


CUSTOM_ONLY = ("image_suffix", "label_suffix", "ignore_labels")  # keys of `data` that other data sets do not read


class Data(Related):
    """Where the images are, and how they are scaled; the rest only for the data set `custom`."""

    root: Root | None = None
    train_scale: tuple[Side, Side] | None = None  # width, height before the random ratio; none: the data set's
    eval_scale: tuple[Side, Side] | None = None
    ratio_range: tuple[Ratio, Ratio] = (0.5, 2.0)
    cache: Cache = "off"  # where decoded training images are kept
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=255)] | None = None
    palette: Annotated[list[tuple[Colour, Colour, Colour]], Field(max_length=255)] | None = None
    train: Folder | None = None
    val: Folder | None = None
    test: Folder | None = None
    image_suffix: Suffix = ".jpg"
    label_suffix: Suffix = ".png"
    ignore_labels: Annotated[list[Colour], Field(max_length=256)] = [255]

    @field_validator("ratio_range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the smaller ratio must come first")
        return value

    @classmethod
    def problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        scale, ratios = numbers(raw.get("train_scale"), 2), numbers(raw.get("ratio_range"), 2)
        if scale and scale[0] * scale[1] * (ratios[1] if ratios else 2.0) ** 2 > MAX_PIXELS:
            yield f"`train_scale` times the larger of `ratio_range` gives more than {MAX_PIXELS} pixels"


class Paper(Strict):
    """mIoU in percent, as printed by the authors."""

    baseline: Percent
    distilled: Percent


class Preset(Related):
    """Everything a run depends on; the resolved form is written beside the run as `config.yaml`."""

    name: Name = ""
    title: Text = ""
    dataset: DatasetName
    role: Role = "distill"
    method: Name = OWN_METHOD
    data: Data = Data()
    teacher: Teacher
    student: Network
    losses: Losses = {}
    schedule: Schedule = Schedule()
    paper: Paper | None = None
    seed: Annotated[int, Field(ge=0, lt=2**31), NUMBER] = 0
    deterministic: bool = False

    @field_validator("dataset", mode="before")
    @classmethod
    def _alias(cls, value: object) -> object:
        return DATASET_ALIASES.get(value, value) if isinstance(value, str) else value

    @classmethod
    def problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        data = raw.get("data")
        data = data.model_dump() if isinstance(data, Data) else data if isinstance(data, Mapping) else {}
        if raw.get("dataset") != "custom":
            return
        missing = [key for key in ("classes", "train", "val") if data.get(key) is None]
        if missing:
            yield "dataset `custom` needs " + ", ".join(f"`data.{key}`" for key in missing)
        classes, palette = data.get("classes"), data.get("palette")
        if isinstance(palette, (list, tuple)) and isinstance(classes, (list, tuple)) and len(palette) != len(classes):
            yield (
                f"`data.palette` must have as many colours as `data.classes` has names, "
                f"got {len(palette)} for {len(classes)}"
            )

    def schedule_for(self, role: str) -> Schedule:
        """The schedule of a role: a teacher's own keys replace the common ones; a time budget is the students'."""
        if role != "teacher":
            return self.schedule
        own = self.teacher.schedule.model_dump(exclude_none=True) if self.teacher.schedule is not None else {}
        return self.schedule.model_copy(update={"time_budget": None, **own})


class SourceWeight(Strict):
    """What a method's source multiplies a loss with, for the data sets it says that of."""

    source: Text
    values: dict[DatasetName, Weight]


class About(Strict):
    """What `rmrkd methods NAME` tells."""

    matches: Text  # what of the teacher the student follows
    formula: Text
    learnable: Text = "nothing"
    cost: Positive | None = None  # seconds of a step relative to the baseline's, on `demo` (benchmarks/METHODS.md)
    source: Text  # paper, and the released code with its commit
    traps: Annotated[list[Text], Field(max_length=20)] = []


class MethodRecipe(Strict):
    """The losses that `--method` puts in place of a preset's own.

    A weight that a recipe leaves open is the source's where there is one for the data set, else `auto`.
    """

    title: Text = ""
    about: About | None = None
    losses: Losses
    weights: dict[str, SourceWeight] = {}
