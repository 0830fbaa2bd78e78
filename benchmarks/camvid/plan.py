"""What is trained, with which settings, in which order; and the commands for it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.jobs import file_stem
from benchmarks.training import Training
from rmrkd_cli.presets.methods import load_method, methods_on_logits

PRESETS = Path(__file__).parent / "presets"
A, A_VIEWS, B = "mIoU of A", "mIoU of A, mirrored and at three scales", "mIoU of B"  # measurements of teachers
SCALES = "0.75,1.0,1.25"
LEARNING_RATES = (0.005, 0.01, 0.02)  # of the baseline's trials
WEIGHT_TRIALS = range(len(LEARNING_RATES))  # of each method
WEIGHT_FACTORS = (1.0, 0.3)  # of a method's first trials, by the automatic weights
SMALLER, LARGER = 0.1, 3.0  # of the next: smaller if the second trial was the better
TRIAL_SHARE = 3  # a trial has this share of the iterations
STAGE = 2  # the deepest stage of one stride in student 1 and teacher A
EIGHTH = 8  # every eighth training image keeps its mask
UNLABELLED = "unlabelled"
LONGER = {2.0: "twice as long", 4.0: "four times as long"}  # by the factor of the iterations
OUTPUTS = {"b": "all", "c": "all", "b-eighth": "eighth + unlabelled"}  # stored outputs of a teacher, and their images


@dataclass(frozen=True)
class Files:
    """Where inputs and results are.

    Attributes:
        data: CamVid: `train`, `trainannot`, `val`, `valannot`.
        weights: Folder of the ImageNet weights and of teacher B.
        folder: Of all trained networks, outputs and masks.
        results: Of what is kept in the repository.
        teacher_iterations: Of teacher A. The names of its files contain them, and so do all commands that use it.
        settings: `KEY.PATH=VALUE` of every training.
    """

    data: Path
    weights: Path
    folder: Path
    results: Path
    teacher_iterations: int
    settings: Sequence[str] = ()

    @property
    def imagenet(self) -> Path:
        return self.weights / "mobilenet_v2_imagenet.pth"

    @property
    def teacher_b(self) -> Path:
        return self.weights / "cityscapes-teacher.onnx"

    @property
    def teacher_a(self) -> Path:
        return self.teacher_folder / "seed-0" / "baseline" / "student.pth"

    @property
    def teacher_folder(self) -> Path:
        return self.folder / f"teacher-a-{self.teacher_iterations}"

    @property
    def eighth(self) -> Path:
        """A data root with every eighth image and its mask, and the others in the folder `UNLABELLED`."""
        return self.folder / "eighth"

    @property
    def labels_of_b(self) -> Path:
        """The predictions of teacher B for the training images, as masks."""
        return self.folder / "labels-of-b"

    @property
    def predicted(self) -> Path:
        """A data root with the masks that teacher B predicts."""
        return self.folder / "predicted"

    @property
    def eighth_predicted(self) -> Path:
        """A data root with the masks of every eighth image, and those that teacher B predicts for the others."""
        return self.folder / "eighth-predicted"

    @property
    def one_val(self) -> Path:
        """A data root with all training images and one to validate on, for trainings whose result is not needed."""
        return self.folder / "one-val"

    @property
    def costs(self) -> Path:
        """The seconds of a step by the name of the row."""
        return self.results / "costs.json"

    @property
    def best(self) -> Path:
        """Size, speed and mIoU of the best students as ONNX files."""
        return self.results / "best.json"

    def results_of(self, name: str) -> Path:
        """Results of a teacher on the validation images."""
        return self.results / "teachers" / f"{file_stem(name)}.json"

    def outputs(self, name: str) -> Path:
        """One of `OUTPUTS`; A is a part of C."""
        return self.folder / "outputs" / (f"c-{self.teacher_iterations}" if name == "c" else name)


@dataclass(frozen=True)
class Row:
    """One row of a table: a training for several seeds.

    Attributes:
        name: Its folder.
        title: As the page names it.
        preset: One of `presets/`.
        method: "baseline" or a method.
        outputs: One of `OUTPUTS`; None with a live teacher, and for a baseline.
        start: Whether the student starts from ImageNet weights.
        data: "all" or "eighth": which images have masks, and are trained on. "eighth + unlabelled" trains on the others
            too. "predicted" has masks that teacher B predicts, "eighth + predicted" has them where a mask is missing.
        length: Factor of the iterations.
        tuned_like: The row whose trials choose learning rate and weights.
        settings: Of its network and losses, and how its images are drawn.
    """

    name: str
    title: str
    preset: str
    method: str
    outputs: str | None = None
    start: bool = True
    data: str = "all"
    length: float = 1.0
    tuned_like: str | None = None
    settings: tuple[str, ...] = ()


def longer(row: Row, length: float) -> Row:
    """Return the row with more or fewer iterations."""
    title = f"{row.title}, {LONGER[length]}" if length in LONGER else row.title
    return replace(
        row, name=f"{row.name}-x{length:g}", title=title, length=length, tuned_like=row.tuned_like or row.name
    )


# 1 / ln(1.02 + share of the pixels) as in the presets, from the predictions of teacher B, and from these and 46 masks.
_CLASS_WEIGHT = "student.overrides.decode_head.loss_decode.class_weight="
_OF_PREDICTED = _CLASS_WEIGHT + "[0.95, 0.58, 5.19, 0.5, 2.32, 1.06, 5.95, 5.48, 1.69, 4.57, 5.68]"
_OF_EIGHTH_AND_PREDICTED = _CLASS_WEIGHT + "[0.93, 0.59, 5.15, 0.5, 2.31, 1.08, 5.77, 5.33, 1.7, 4.66, 5.75]"
BASELINE = Row("baseline", "masks alone", "student", "baseline")
TWICE, FOUR_TIMES = (longer(BASELINE, length) for length in LONGER)
METHODS = (
    Row("kd", "kd, stored outputs of C", "student", "kd", outputs="c"),
    Row("cwd", "cwd, stored outputs of C", "student", "cwd", outputs="c"),
    Row("rmrkd", "rmrkd with mgd and dkd, live teacher A", "student", "rmrkd"),
)
PREDICTED = replace(
    METHODS[1], name="predicted-masks", title="no mask: B's predictions as masks, cwd, outputs of B", outputs="b",
    data="predicted", settings=(_OF_PREDICTED,),
)  # fmt: skip
EIGHTH_ALONE = replace(BASELINE, name="eighth", title="46 masks alone", data="eighth", tuned_like="baseline")
WITH_OTHER_IMAGES = (
    replace(
        METHODS[1], name="eighth-and-predicted", title="46 masks, B's predictions as the others, cwd, outputs of B",
        outputs="b", data="eighth + predicted", settings=(_OF_EIGHTH_AND_PREDICTED,),
    ),
    replace(
        METHODS[1], name="eighth-and-unlabelled", title="46 masks, the others without, cwd, outputs of B",
        outputs="b-eighth", data="eighth + unlabelled", settings=("data.labelled_share=0.5",),
    ),
)  # fmt: skip
LEARN_FROM_B = (PREDICTED, *WITH_OTHER_IMAGES)  # with trials of their own: B's outputs are logits, C's probabilities
FEWER_MASKS = (PREDICTED, EIGHTH_ALONE, *WITH_OTHER_IMAGES)
SMALL = (
    Row("small-baseline", "masks alone", "small", "baseline", start=False, tuned_like="baseline"),
    Row("small-kd", "kd, stored outputs of C", "small", "kd", "c", start=False, tuned_like="kd"),
    Row("small-rmrkd", METHODS[2].title, "small", "rmrkd", start=False, tuned_like="rmrkd"),
)


def method_row(name: str) -> Row:
    """Return the row of another method, as those of `METHODS`.

    Raises:
        RmrkdError: There is no such method.
    """
    row = Row(name, f"{name}, live teacher A", "student", name)
    losses = load_method(name).losses
    if name in methods_on_logits():
        return replace(row, title=f"{name}, stored outputs of C", outputs="c")
    stages = (f"losses.{loss}.stage={STAGE}" for loss, spec in losses.items() if isinstance(spec.stage, int))
    return replace(row, settings=tuple(stages))


@dataclass(frozen=True)
class Choice:
    """What the trials chose.

    Attributes:
        lr: Of every training.
        weights: Of a method's losses, by their names; empty for baselines.
    """

    lr: float
    weights: dict[str, float]

    def settings(self) -> list[str]:
        return [f"schedule.lr={self.lr}", *(f"losses.{name}.weight={value}" for name, value in self.weights.items())]


def training(files: Files, row: Row, seed: int, iterations: int, choice: Choice | None, folder: Path) -> Training:
    """Return the training of one row and seed; without a choice, with the preset's learning rate and weights."""
    settings = [f"schedule.iters={iterations}", *_inputs(files, row), *row.settings]
    settings += [*(choice.settings() if choice else []), *files.settings]
    return Training(row.method, str(PRESETS / f"{row.preset}.yaml"), folder, (seed,), tuple(settings), "cpu")


def teacher_training(files: Files) -> Training:
    row = Row("teacher-a", "teacher A", "teacher-a", "baseline")
    return training(files, row, 0, files.teacher_iterations, None, files.teacher_folder)


def _inputs(files: Files, row: Row) -> Iterable[str]:
    """Yield the settings that name data, starting weights and teacher."""
    yield from _data(files, row.data)
    if row.start:
        yield f"student.checkpoint={{path: {json.dumps(str(files.imagenet))}}}"
    if row.outputs is not None:
        yield f"teacher.outputs={json.dumps(str(files.outputs(row.outputs)))}"
    elif row.method != "baseline":
        yield f"teacher.checkpoint={{path: {json.dumps(str(files.teacher_a))}}}"


def _data(files: Files, data: str) -> Iterable[str]:
    """Yield the settings that name the images; see `Row.data`."""
    roots = {
        "all": files.data, "eighth": files.eighth, "predicted": files.predicted,
        "eighth + predicted": files.eighth_predicted, "eighth + unlabelled": files.eighth,
    }  # fmt: skip
    yield f"data.root={json.dumps(str(roots[data]))}"
    if data == "eighth + unlabelled":
        yield f"data.unlabelled={{images: {UNLABELLED}}}"


def make_roots(files: Files) -> None:
    """Link the images and masks of the rows with fewer masks into data roots of their own."""
    masks = sorted((files.data / "trainannot").iterdir())
    for root, images in ((files.eighth, masks[::EIGHTH]), (files.eighth_predicted, masks), (files.predicted, masks)):
        for number, mask in enumerate(images):
            _link(root / "train" / mask.name, files.data / "train" / mask.name)
            true = root == files.eighth or (root == files.eighth_predicted and number % EIGHTH == 0)
            _link(root / "trainannot" / mask.name, mask if true else files.labels_of_b / mask.name)
        for folder in ("val", "valannot"):
            _link(root / folder, files.data / folder)
    for mask in set(masks) - set(masks[::EIGHTH]):
        _link(files.eighth / UNLABELLED / mask.name, files.data / "train" / mask.name)
    for folder in ("train", "trainannot"):
        _link(files.one_val / folder, files.data / folder)
    for folder in ("val", "valannot"):
        first = min((files.data / folder).iterdir())
        _link(files.one_val / folder / first.name, first)


def _link(path: Path, target: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.readlink() != target:
        path.unlink()
    if not path.is_symlink():
        path.symlink_to(target)


def label_arguments(files: Files) -> list[str]:
    """Return the arguments of `rmrkd` that write teacher B's predictions for the training images as masks."""
    return [
        "eval", str(files.teacher_b), "--preset", str(PRESETS / "student-from-b.yaml"), "--data-root", str(files.data),
        "--split", "train", "--save-predictions", str(files.labels_of_b), "--device", "cpu",
    ]  # fmt: skip


def cache_arguments(files: Files, name: str) -> list[str]:
    """Return the arguments of `rmrkd` that make one of `OUTPUTS`."""
    student, from_b = (str(PRESETS / f"{name}.yaml") for name in ("student", "student-from-b"))
    common = ["--out", str(files.outputs(name)), "--device", "cpu"]
    presets, checkpoints = ["--preset", from_b], [files.teacher_b]
    if name == "c":
        presets, checkpoints = ["--preset", student, *presets], [files.teacher_a, *checkpoints]
        common += ["--flip", "--scales", SCALES]
    given_data = [text for text in files.settings if text.startswith(("teacher.", "data."))]
    data = [part for text in (*_data(files, OUTPUTS[name]), *given_data) for part in ("--set", text)]
    given = [part for path in checkpoints for part in ("--teacher-checkpoint", str(path))]
    return ["cache-teacher", *presets, *given, *data, *common]
