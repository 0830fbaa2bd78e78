"""The keys of `data` in presets: folders, classes, scales, and images without label maps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from rmrkd_cli.presets.fields import (
    MAX_PIXELS,
    Byte,
    CacheMode,
    ClassName,
    FileSuffix,
    Fraction,
    Pixels,
    Positive,
    Ratio,
    RelativePath,
    RootPath,
    Share,
    class_name_problems,
    ignored_class_problems,
    numbers,
)
from rmrkd_cli.presets.label_rules import WITHOUT_LABELS, label_problems
from rmrkd_cli.presets.validation import StrictModel


class Folder(StrictModel):
    """One split of a `custom` data set. Paths are relative to `data.root`."""

    example = "`{images: FOLDER, labels: FOLDER}`"

    images: RelativePath  # folder of images, or tar archives such as `train-{000..099}.tar`
    labels: RelativePath  # folder of label maps, or tar archives; may be those of the images
    names: RelativePath | None = None  # text file with one name a line, without suffix; None: every image


class TrainFolder(Folder):
    """The training split. Other data sets than `custom` read only `labels: none` and `labels: teacher`."""

    example = "`{images: FOLDER, labels: FOLDER}`, or `{labels: none}`"

    # As in the other splits; required for `custom`.
    images: RelativePath | None = None  # type: ignore[assignment]
    labels: RelativePath  # folder of label maps; `none`: train from the teacher alone; `teacher`: it predicts them


class UnlabelledFolder(StrictModel):
    """Images without label maps, which a distillation uses beside those of `data.train`."""

    example = "`{images: FOLDER}`"

    # Folder, searched with its subfolders, or tar archives such as `DIR/*.tar`; relative to the data root, or absolute.
    images: RootPath
    names: RootPath | None = None  # text file with one file a line, relative to `images`; None: every image
    suffix: FileSuffix | None = None  # end of image file names; None: of any image format
    labels: Literal["none", "teacher"] = "none"  # `teacher`: the teacher's prediction is their label map


CUSTOM_ONLY = ("image_suffix", "label_suffix", "ignore_labels")  # keys of `data` that other data sets do not read


class Data(StrictModel):
    """Where the images are and how they are scaled. From `classes` on, keys are for the data set `custom` only."""

    root: RootPath | None = None  # folder of the data set; None: the data set's usual place
    # Width and height that training images are fitted into, before the random factor; None: the data set's.
    train_scale: tuple[Pixels, Pixels] | None = None
    # Width and height that validation images are fitted into; None: the data set's, for `custom` `train_scale`.
    eval_scale: tuple[Pixels, Pixels] | None = None
    ratio_range: tuple[Ratio, Ratio] = (0.5, 2.0)  # smallest and largest random scale factor in training
    cache: CacheMode = "off"  # keep decoded training images: off, ram or disk
    # The value of white in images that are not of 8 bits, which becomes 255; None: such images are refused.
    max_value: Positive | None = None
    unlabelled: UnlabelledFolder | None = None  # more images to distil on, without label maps
    # Share of labelled images in a batch that also has unlabelled ones; None: as many as among all images.
    labelled_share: Share | None = None
    # The teacher's prediction is no label where its largest probability is smaller; None: every pixel has a label.
    label_threshold: Fraction | None = None
    classes: Annotated[list[ClassName], Field(min_length=1, max_length=255)] | None = None  # names, label 0 first
    palette: Annotated[list[tuple[Byte, Byte, Byte]], Field(max_length=255)] | None = None  # red, green, blue a class
    train: TrainFolder | None = None  # images to train on
    val: Folder | None = None  # images to validate on
    test: Folder | None = None  # images for `rmrkd eval --split test`
    image_suffix: FileSuffix = ".jpg"  # end of image file names
    label_suffix: FileSuffix = ".png"  # end of label file names, which otherwise equal the image's
    ignore_labels: Annotated[list[Byte], Field(max_length=256)] = [255]  # label values that count as no class

    @field_validator("ratio_range")
    @classmethod
    def _check_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if value[0] > value[1]:
            raise ValueError("the smaller ratio must come first")
        return value

    @classmethod
    def cross_field_problems(cls, raw: Mapping[str, Any]) -> Iterator[str]:
        yield from class_name_problems(raw.get("classes"))
        yield from ignored_class_problems(raw.get("classes"), raw.get("ignore_labels"))
        scale, ratios = numbers(raw.get("train_scale"), 2), numbers(raw.get("ratio_range"), 2)
        if scale and scale[0] * scale[1] * (ratios[1] if ratios else 2.0) ** 2 > MAX_PIXELS:
            yield f"`train_scale` times the larger of `ratio_range` gives more than {MAX_PIXELS} pixels"
        yield from label_problems(raw)

    @property
    def train_labels(self) -> str:
        """What the images of the training split have: label maps (`files`), `none`, or predictions (`teacher`)."""
        labels = self.train.labels if self.train is not None else ""
        return labels if labels in WITHOUT_LABELS else "files"

    @property
    def teacher_labels(self) -> bool:
        """Whether the teacher's prediction is the label map of images without one."""
        return "teacher" in (self.train_labels, self.unlabelled.labels if self.unlabelled is not None else "none")
