"""The reference of all keys of presets and method recipes.

Each line is one key: its type with bounds (`fields.py`), its default, and after `#` its meaning and unit. A key without
a default is required. The keys of `data` are in `data_schema.py`, those of losses in `rmrkd_cli/losses`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rmrkd_cli.presets.data_schema import CUSTOM_ONLY as CUSTOM_ONLY
from rmrkd_cli.presets.data_schema import Data as Data
from rmrkd_cli.presets.data_schema import Folder as Folder
from rmrkd_cli.presets.fields import (
    NUMBER,
    ClassMap,
    FeatureMap,
    Name,
    NonNegative,
    PathText,
    Percent,
    Positive,
    Text,
)
from rmrkd_cli.presets.label_rules import WITHOUT_LABELS
from rmrkd_cli.presets.loss_schema import Losses
from rmrkd_cli.presets.names import DATASET_ALIASES as DATASET_ALIASES
from rmrkd_cli.presets.names import DATASETS as DATASETS
from rmrkd_cli.presets.names import OWN_METHOD as OWN_METHOD
from rmrkd_cli.presets.names import DatasetName as DatasetName
from rmrkd_cli.presets.network_schema import FILE_LIBRARIES, FileInput, Network, student_problems
from rmrkd_cli.presets.schedule_schema import PartialSchedule as PartialSchedule
from rmrkd_cli.presets.schedule_schema import Schedule as Schedule
from rmrkd_cli.presets.validation import StrictModel

Role = Literal["teacher", "baseline", "distill", "all"]


class Teacher(Network):
    """The large network. Without `checkpoint`, the role `teacher` trains one."""

    file: PathText | None = None  # onnx, torchscript: the file
    input: FileInput | None = None  # onnx, torchscript: the images that the file expects; None: as the file says
    output: Literal["logits", "probabilities"] = "logits"  # onnx, torchscript: what the file gives
    # onnx, torchscript: channel -> class of the data set by index or name, or `ignore`; None: the same classes.
    classes: ClassMap | None = None
    outputs: PathText | None = None  # folder of `rmrkd cache-teacher`, used in place of the network
    schedule: PartialSchedule | None = None  # keys that differ from the preset's `schedule` when it is trained
    reported_miou: Percent | None = None  # percent, as the checkpoint's source reports
    min_miou: Percent | None = None  # percent; stop if validation is below. None: half of `reported_miou`

    @property
    def is_file(self) -> bool:
        """Whether it is an ONNX or TorchScript file, which cannot be trained."""
        return self.library in FILE_LIBRARIES

    @property
    def is_trained(self) -> bool:
        """Whether it has weights, or is none that rmrkd trains: a file, or a network that gives only features."""
        return self.is_file or self.gives_only_features or self.checkpoint is not None


class Paper(StrictModel):
    """mIoU in percent, as printed in the paper."""

    baseline: Percent  # student without distillation
    distilled: Percent  # student with RMRKD


class Preset(StrictModel):
    """Everything a run depends on. A run writes it with all defaults as `config.yaml`."""

    name: Name = ""  # names the run directory; "": the file's name
    title: Text = ""  # one line for `rmrkd presets`
    dataset: DatasetName
    role: Role = "distill"  # what is trained: teacher, baseline (student alone), distill, or all in turn
    method: Name = OWN_METHOD  # where `losses` come from: a recipe's name, or `rmrkd` for the preset itself
    data: Data = Data()
    teacher: Teacher
    student: Network
    losses: Losses = {}  # name -> loss; keys are `type`, `stage`, `weight` and the options of the type
    schedule: Schedule = Schedule()
    paper: Paper | None = None  # results to compare with
    seed: Annotated[int, Field(ge=0, lt=2**31), NUMBER] = 0  # of weights, order of images, augmentation and masks
    deterministic: bool = False  # use only operations whose results repeat exactly; slower

    @field_validator("dataset", mode="before")
    @classmethod
    def _resolve_alias(cls, value: object) -> object:
        return DATASET_ALIASES.get(value, value) if isinstance(value, str) else value

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        yield from student_problems(raw.get("student"))
        data = raw.get("data")
        data = data.model_dump() if isinstance(data, Data) else data if isinstance(data, Mapping) else {}
        train = data["train"] if isinstance(data.get("train"), Mapping) else {}
        if raw.get("dataset") != "custom":
            if train.get("labels") in WITHOUT_LABELS and (train.get("images") or train.get("names")):
                yield (
                    f"`data.train.images` and `data.train.names` are for the data set `custom`: `{raw.get('dataset')}` "
                    "has its own; for other images, give `data.unlabelled`"
                )
            return
        missing = [key for key in ("classes", "train", "val") if data.get(key) is None]
        if data.get("train") is not None and train.get("images") is None:
            missing.append("train.images")
        if missing:
            yield "dataset `custom` needs " + ", ".join(f"`data.{key}`" for key in missing)
        classes, palette = data.get("classes"), data.get("palette")
        if isinstance(palette, (list, tuple)) and isinstance(classes, (list, tuple)) and len(palette) != len(classes):
            yield (
                f"`data.palette` must have as many colours as `data.classes` has names, "
                f"got {len(palette)} for {len(classes)}"
            )

    def schedule_for(self, role: str) -> Schedule:
        """Return the schedule of a role: the teacher's own keys replace the common ones, except the time budget."""
        if role != "teacher":
            return self.schedule
        own = {key: value for key, value in self.teacher.schedule or () if value is not None}
        return self.schedule.model_copy(update={"time_budget": None, **own})


class SourceWeight(StrictModel):
    """The factor that a method's source gives a loss."""

    source: Text  # where it is written
    values: dict[DatasetName, NonNegative]  # data set -> factor
    stages: list[FeatureMap] | None = None  # maps for which it is published; None: the recipe's


class About(StrictModel):
    """What `rmrkd methods NAME` shows."""

    matches: Text  # what the student matches of the teacher
    formula: Text
    learnable: Text = "nothing"  # layers that the losses train
    cost: Positive | None = None  # time of a step relative to the baseline's, on `demo` (benchmarks/METHODS.md)
    source: Text  # paper, and the released code with its commit
    published: Annotated[list[Text], Field(max_length=20)] = []  # results of the source, not measured here
    traps: Annotated[list[Text], Field(max_length=20)] = []  # known problems


class MethodRecipe(StrictModel):
    """The losses that `--method` puts in place of a preset's own.

    A loss without `weight` takes that of `weights` for the preset's data set and the loss's stage, or else `auto`. The
    same holds for the losses of a preset.
    """

    title: Text = ""  # one line for `rmrkd methods`
    about: About | None = None
    losses: Losses
    weights: dict[str, SourceWeight] = {}  # loss -> factors of its source
