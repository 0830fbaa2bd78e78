"""The shipped presets and recipes, and what reading, overriding and checking does to any other."""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Iterator
from functools import reduce
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from typer.testing import CliRunner

from rmrkd_cli.cli.app import app
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import load_preset, preset_names, to_yaml
from rmrkd_cli.presets.methods import load_method, method_names, preset_dir
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.terminal.sanitize import CONTROL
from tests.helpers.cli import run_main

FILES = sorted(preset_dir().glob("*.yaml"), key=lambda path: path.stem)
RECIPES = sorted((preset_dir() / "methods").glob("*.yaml"))

# The released pairs: teacher file, student, stage and weight of RMRKD, the paper's baseline and distilled mIoU.
_PSP_CITY = "pspnet_r101-d8_512x1024_40k_cityscapes_20200604_232751-467e7cf4.pth"
_PSP_VOC = "pspnet_r101-d8_512x512_40k_voc12aug_20200613_161222-bc933b18.pth"
_DL_CITY = "deeplabv3_r101-d8_512x1024_80k_cityscapes_20200606_113503-9e428899.pth"
_DLP_CITY = "deeplabv3plus_r101-d8_512x1024_80k_cityscapes_20200606_114143-068fcfe9.pth"
RELEASED: dict[str, tuple[str, str, int, float, tuple[float, float] | None]] = {
    "psp101-psp18-city": (_PSP_CITY, "pspnet_r18-d8", 4, 0.1, (69.37, 75.72)),
    "psp101-dl18-city": (_PSP_CITY, "deeplabv3_r18-d8", 3, 1.0, (73.37, 76.72)),
    "dlp101-dlmbv2-city": (_DLP_CITY, "deeplabv3_m-v2-d8", 3, 1.0, (73.76, 76.87)),
    "dl101-dlmbv2-city": (_DL_CITY, "deeplabv3_m-v2-d8", 3, 1.0, (73.11, 76.32)),
    "psp101-psp18-voc12aug": (_PSP_VOC, "pspnet_r18-d8", 3, 1.0, (70.52, 74.64)),
    "psp101-dl18-voc12aug": (_PSP_VOC, "deeplabv3_r18-d8", 4, 1.0, (71.60, 74.97)),
    "dlp101-dlpmbv2-city": (_DLP_CITY, "deeplabv3plus_m-v2-d8", 3, 1.0, None),
}
RMRKD = {"type": "rmrkd", "tau": 0.1, "label_resize": "bilinear", "softmax_over": "rows"}
MGD = {"type": "mgd", "stage": 4, "weight": 2e-5, "mask_ratio": 0.75}
DKD = {"type": "dkd", "stage": "logits", "weight": 1.0, "tau": 4.0, "target_weight": 4.0, "non_target_weight": 4.0}
SCHEDULE = {"iters": 40000, "batch_size": 2, "crop": (512, 512), "lr": 0.01, "momentum": 0.9, "weight_decay": 5e-4}
SCHEDULE |= {"power": 0.9, "min_lr": 1e-4}


def write(contents: Any, path: Path) -> str:
    text = contents if isinstance(contents, str) else yaml.safe_dump(contents, sort_keys=False, allow_unicode=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refusal(name: str, *overrides: str, method: str | None = None) -> str:
    with pytest.raises(RmrkdError) as caught:
        load_preset(name, method=method, overrides=overrides)
    assert caught.value.exit_code == 2
    return caught.value.message


def custom(**data: Any) -> dict[str, Any]:
    net = {"config": "pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py"}
    complete = {"classes": ["a", "b"], **{part: {"images": "images", "labels": "labels"} for part in ("train", "val")}}
    given = {key: value for key, value in {**complete, **data}.items() if value is not None}
    return {"dataset": "custom", "data": given, "teacher": net, "student": dict(net)}


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        (["road"], "has only `road`, at least two are needed: name the background too"),
        (["a", "b", "a"], "has `a` twice, at 0 and 2"),
        (["car", "road", "Car"], "has `Car` twice, at 0 and 2 (upper and lower case count as equal)"),
        (["traffic light", "road", " Traffic  Light "], "twice, at 0 and 2"),
    ],
)
def test_classes_are_at_least_two_and_different(classes: list[str], text: str, tmp_path: Path) -> None:
    message = refusal(write(custom(classes=classes), tmp_path / "p.yaml"))
    assert message.startswith("1 problem(s)")
    assert "data: `classes` has" in message
    assert text in message


@pytest.mark.parametrize(
    ("classes", "ignored", "text"),
    [
        (["background", "road"], [0, 2, 255], "contains the class index 0 and leaves only `road`, at least two"),
        (["a", "b", "c"], [2, 1, 255], "contains the class indices 1, 2 and leaves only `a`, at least two"),
        (["a", "b"], [0, 1], "contains the class indices 0, 1 and leaves no class, at least two"),
    ],
)
def test_two_classes_are_not_ignored(classes: list[str], ignored: list[int], text: str, tmp_path: Path) -> None:
    message = refusal(write(custom(classes=classes, ignore_labels=ignored), tmp_path / "p.yaml"))
    assert f"data: `ignore_labels` {text}" in message


@pytest.mark.parametrize(("classes", "ignored"), [(["void", "road", "building"], [0, 255]), (["a", "b"], [2, 255])])
def test_two_counted_classes_are_enough(classes: list[str], ignored: list[int], tmp_path: Path) -> None:
    preset = load_preset(write(custom(classes=classes, ignore_labels=ignored), tmp_path / "p.yaml"))
    assert (preset.data.classes, preset.data.ignore_labels) == (classes, ignored)


def test_presets_are_found_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert [] != preset_names() == [path.stem for path in FILES] == [load_preset(path.stem).name for path in FILES]
    assert {*RELEASED, "demo"} <= set(preset_names())
    assert set(method_names()) == {"rmrkd", *(path.stem for path in RECIPES)}


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=lambda path: path.stem)
def test_the_first_line_is_the_command_that_runs_it(path: Path) -> None:
    prompt, program, *args = shlex.split(path.read_text().splitlines()[0])
    assert (prompt, program, args[:2]) == ("#", "rmrkd", ["train", "--preset"])
    assert (args[2] if path in FILES else args[args.index("--method") + 1]) == path.stem
    printed = CliRunner().invoke(app, [*args, "--print-config"], catch_exceptions=False).stdout
    assert yaml.safe_load(printed)["name"] == args[2]


@pytest.mark.parametrize("name", RELEASED)
def test_released_pairs_are_as_published(name: str) -> None:
    preset, (file, student, stage, weight, paper) = load_preset(name), RELEASED[name]
    source = preset.model_dump()["teacher"]["checkpoint"]
    assert source["url"].startswith("https://download.openmmlab.com/mmsegmentation/v0.5/")
    assert (source["url"].rsplit("/", 1)[-1], source["sha256"]) == (file, file[-12:-4])
    assert file.startswith(f"{Path(preset.teacher.config).stem}_")
    assert Path(preset.student.config).name.startswith(f"{student}_")
    assert preset.dataset == {"city": "cityscapes"}.get(name.split("-")[-1], "voc12aug")
    assert (preset.paper and (preset.paper.baseline, preset.paper.distilled)) == paper
    rmrkd = {**RMRKD, "stage": stage, "weight": weight}
    assert preset.model_dump()["losses"] == {"rmrkd": rmrkd, "mgd": MGD, "dkd": DKD}
    assert preset.schedule.model_dump(include=set(SCHEDULE)) == SCHEDULE


def redundant(model: BaseModel, where: tuple[str, ...] = ()) -> Iterator[str]:
    """Keys that were given and equal the schema's default."""
    for key in model.model_fields_set:
        field, value = type(model).model_fields[key], getattr(model, key)
        if not field.is_required() and value == field.get_default(call_default_factory=True):
            yield ".".join((*where, key))
        inner = {(key, name): part for name, part in value.items()} if isinstance(value, dict) else {(key,): value}
        for path, part in inner.items():
            yield from redundant(part, (*where, *path)) if isinstance(part, BaseModel) else ()


@pytest.mark.parametrize("path", [*FILES, *RECIPES], ids=lambda path: path.stem)
def test_a_preset_holds_only_what_differs(path: Path) -> None:
    assert list(redundant(load_method(path.stem) if path in RECIPES else load_preset(path.stem))) == []


def test_redundant_keys_would_be_seen() -> None:
    preset = load_preset("demo", overrides=["losses.mgd.stage=4", "schedule.power=0.9", "seed=0"])
    assert sorted(redundant(preset)) == ["losses.mgd.stage", "schedule.power", "seed"]


@pytest.mark.parametrize(
    ("name", "method"),
    [*((name, load_preset(name).method) for name in preset_names()), *(("demo", method) for method in method_names())],
)
def test_a_resolved_preset_reads_back_equal(name: str, method: str, tmp_path: Path) -> None:
    preset = load_preset(name, method=method, overrides=["schedule.lr=3.0e-05", "student.overrides.norm_cfg.eps=null"])
    file = write(to_yaml(preset, "rmrkd train"), tmp_path / "config.yaml")
    assert load_preset(file) == preset
    assert to_yaml(load_preset(file), "rmrkd train") == Path(file).read_text()


@pytest.mark.parametrize("method", method_names())
def test_a_method_replaces_the_losses_and_nothing_else(method: str, tmp_path: Path) -> None:
    own, swapped = load_preset("psp101-psp18-city"), load_preset("psp101-psp18-city", method=method)
    assert (swapped.method, len(swapped.losses) > 0) == (method, True)
    losses = own.losses if method == "rmrkd" else load_method(method).losses
    assert {name: loss.type for name, loss in swapped.losses.items()} == {n: loss.type for n, loss in losses.items()}
    assert swapped.model_copy(update={"method": own.method, "losses": own.losses}) == own


def test_own_losses_cannot_be_asked_of_a_file_that_lost_them(tmp_path: Path) -> None:
    file = write(to_yaml(load_preset("demo", method="mgd")), tmp_path / "config.yaml")
    assert "rmrkd" in refusal(file, method="rmrkd")


def test_rmrkd_replaces_losses_of_a_preset_that_names_no_method(tmp_path: Path) -> None:
    raw = {**custom(), "losses": {"kd": {"type": "kd"}}}
    assert list(load_preset(write(raw, tmp_path / "kd.yaml")).losses) == ["kd"]
    swapped = load_preset(write(raw, tmp_path / "kd.yaml"), method="rmrkd")
    assert {name: loss.type for name, loss in swapped.losses.items()} == {"rmrkd": "rmrkd", "mgd": "mgd", "dkd": "dkd"}
    raw["losses"] = {"relations": {"type": "rmrkd", "weight": 3}}
    assert list(load_preset(write(raw, tmp_path / "own.yaml"), method="rmrkd").losses) == ["relations"]


UNKNOWN = {  # where a key is unknown, and the nearest known one
    "tittle": "title", "data.rot": "root", "schedule.crops": "crop", "teacher.confg": "config", "student.ini": "init",
    "teacher.checkpoint.sha": "sha256", "teacher.schedule.iter": "iters", "data.train.image": "images",
    "losses.rmrkd.tua": "tau", "losses.other.mask_ration": "mask_ratio", "paper.baselines": "baseline",
}  # fmt: skip


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    raw = custom()
    raw["teacher"] |= {"checkpoint": {"path": "t.pth"}, "schedule": {}}
    raw |= {"losses": {"rmrkd": {"type": "rmrkd"}, "other": {"type": "mgd"}}, "schedule": {"lr": -1}}
    raw["paper"] = {"baseline": 1, "distilled": 2}
    for dotted in UNKNOWN:
        *parents, key = dotted.split(".")
        reduce(getitem, parents, raw)[key] = 1
    raw |= {"name": "../up"}
    raw["data"]["palette"] = [[0, 0, 0]]
    raw["teacher"]["checkpoint"]["url"] = "https://a/b.pth"
    file = write(raw, tmp_path / "many.yaml")
    first, *lines = refusal(file, "seed=-1", "lr", method="mgdd").splitlines()
    assert first == f"{len(UNKNOWN) + 8} problem(s) in preset `{file}`:"
    for culprit in ("mgdd", "--set lr", "  name: ", "`data.palette`", "either `url` or", "`url` needs"):
        lines.remove(next(line for line in lines if culprit in line))
    told = dict(line.strip().split(": ", 1) for line in lines)
    assert all(told.pop(key).endswith(", got -1") for key in ("schedule.lr", "seed"))
    assert told == {key: f"unknown key, did you mean `{near}`?" for key, near in UNKNOWN.items()}


@pytest.mark.parametrize("missing", [("classes",), ("train",), ("val",), ("classes", "train", "val")], ids=",".join)
def test_a_custom_dataset_must_be_described(missing: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    assert load_preset(write(custom(), file)).data.classes == ["a", "b"]
    assert "`data.palette`" in refusal(write(custom(palette=[[0, 0, 0]]), file))
    message = refusal(write(custom(**dict.fromkeys(missing)), file))
    assert tuple(key for key in ("classes", "train", "val") if f"`data.{key}`" in message) == missing


SET = {
    "schedule.lr=0.02": 0.02, "schedule.lr=1e-3": 0.001, "losses.mgd.weight=3e-06": 3e-6,
    "schedule.crop=[256, 128]": (256, 128),
    "schedule.amp=off": "off", "schedule.clip_grad=null": None, "deterministic=true": True, "title=a=b": "a=b",
    "data.root=~/with blank": "~/with blank", "losses.mgd.mask_ratio=1": 1.0, "losses.mgd.stage=3": 3,
    "losses.mgd={type: mgd, weight: 2}": {**MGD, "weight": 2.0},
    "student.overrides={a.b: {c: null}}": {"a.b": {"c": None}}, "dataset=city": "cityscapes",
    "dataset=voc": "voc12aug", "dataset=ade": "ade20k",
}  # fmt: skip
FORM = "must have the form key.path=value"
REFUSED = [
    ("schedule.lr", FORM), ("=1", FORM), ("schedule..lr=1", FORM), ("seed.x=1", "seed: "), ("name=../up", "../up"),
    ("schedule.lr.x=1", "`schedule.lr` holds a value"), ("schedule.crop.0=64", "`schedule.crop` holds a value"),
    ("title.x.y=1", "`title` holds a value"), ("schedule.lr=fast", "schedule.lr: "), ("losses=null", "losses: "),
    ("schedule.lr=.inf", "schedule.lr: "), ("schedule.iters=1.5", "schedule.iters: "), ("method=../up", "../up"),
    ("schedule.iters=true", "schedule.iters: "), ("losses.rmrkd.weight=yes", "losses.rmrkd.weight: "),
    ("schedule.crop=[64]", "schedule.crop.1: "), ("losses.rmrkd.stage=5", "losses.rmrkd.stage: "),
    ("losses.new={}", "losses.new: "), ("losses.rmrkd.type=rmkd", "losses.rmrkd: `rmkd` is not allowed, did you mean"),
    ("teacher.checkpoint={}", "teacher.checkpoint: give either `url` or `path`"),
    ("teacher.checkpoint={url: https://a/b.pth}", "teacher.checkpoint: `url` needs `sha256`"),
    ("teacher.checkpoint={url: http://a/b.pth, sha256: abcdef01}", "teacher.checkpoint.url: `url` must begin"),
]  # fmt: skip
ODD = ["[", "[" * 1000, "2025-13-45", "!!bool x", "!!int ''", "!!timestamp x", "!!python/name:os.system", "&a {x: *a}"]
ODD += ["{x: .inf}", "{x: 2025-01-13}"]  # neither is JSON, so the resolved preset could not be written
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12)


@pytest.mark.parametrize("text", SET)
def test_set_reads_typed_values(text: str) -> None:
    value = reduce(getitem, text.split("=")[0].split("."), load_preset("demo", overrides=[text]).model_dump())
    assert (value, type(value)) == (SET[text], type(SET[text]))


def test_set_reaches_losses_and_dotted_overrides() -> None:
    texts = ["losses.mgd=null", "losses.more.type=idd", "student.overrides.backbone.depth=34", "seed=1", "seed=2"]
    preset = load_preset("demo", overrides=texts)
    assert (list(preset.losses), preset.seed) == (["rmrkd", "dkd", "more"], 2)
    assert preset.student.overrides == {**load_preset("demo").student.overrides, "backbone.depth": 34}


@pytest.mark.parametrize(("text", "culprit"), REFUSED, ids=[text for text, _ in REFUSED])
def test_set_is_checked_like_a_file(text: str, culprit: str) -> None:
    assert culprit in refusal("demo", text)


@pytest.mark.parametrize("place", ["set", "file"])
@pytest.mark.parametrize("value", ODD, ids=lambda value: value[:20])
def test_odd_yaml_is_refused(value: str, place: str, tmp_path: Path) -> None:
    if place == "set":
        assert "student.overrides" in refusal("demo", f"student.overrides={value}")
    else:
        text = f"dataset: demo\nteacher: {{config: x}}\nstudent: {{config: x, overrides: {value}}}\n"
        assert "odd.yaml" in refusal(write(text, tmp_path / "odd.yaml"))


def places(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield (*path, key)
        yield from places(value, (*path, key))


HOSTILE = st.sampled_from(
    [2**31, 2**63, -(10**29), 10**400, 1e308, -0.0, "x" * 1001, "x" * 9000, "a\0b", "\ud800", "\u202eabc", "\x9b2J",
     "../up", "/etc/passwd", "~nobody-of-this-name", "C:\\x", "no", "1e999", "nan", "<b>", "[red]", [], {}, [[[]]],
     {"type": "Pretrained"}, {"checkpoint": "x.pkl"}, {"class_weight": "x.pkl"},
     [1] * 300, {"a" * 2000: 1}, {"": None}, {"type": "mgd"}]
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_a_damaged_preset_is_read_or_explained(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    """By the command itself; what it prints is read back as the same preset."""
    raw = yaml.safe_load(data.draw(st.sampled_from([*FILES, *RECIPES])).read_text())
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, last = data.draw(st.sampled_from(list(places(raw)) or [("title",)]))
        node, action = reduce(getitem, parents, raw), data.draw(st.sampled_from(["drop", "rename", "replace", "add"]))
        value = node[last] if action == "add" or last not in node else node.pop(last)
        fresh = copy.deepcopy(data.draw(SCALARS | HOSTILE))  # a second round may change what the first inserted
        if action in ("replace", "add"):
            node.insert(0, fresh) if isinstance(node, list) else node.update({last: fresh})
        elif action == "rename" and isinstance(node, dict):
            node[data.draw(SCALARS)] = value
    file = Path(write(raw, tmp_path_factory.getbasetemp() / "damaged.yaml"))
    code, out, err = run_main("presets", str(file))
    replayed = run_main("train", "--preset", str(file), "--print-config")
    assert (code, replayed[0], replayed[2]) == (replayed[0], code, err)
    assert not CONTROL.search((out + err).replace("\n", ""))
    if code == 2:
        assert (out, err.startswith("error: "), "damaged.yaml" in err) == ("", True, True)
        return
    assert (code, err, out.split("\n", 1)[1]) == (0, "", replayed[1])
    before = load_preset(str(file))
    assert load_preset(write(out, file)) == before


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("losses.ce={type: mgd}", "cannot name a loss"),
        ("losses={a-b: {type: mgd}}", "cannot name a loss"),
        ("data.ratio_range=[2, 1]", "smaller ratio must come first"),
        ("data.palette=[[0, 0, 300]]", "less than or equal to 255"),
        ("data.classes=[]", "at least 1 item"),
        ("data.classes=[yes, no]", "put it in quotes"),
        ("data.classes=[1, 2]", "put it in quotes"),
        ('data.classes=["a\\x1b[2J", b]', "U\\+001B"),
        ('title="a\\u202eb"', "U\\+202E"),
        ("title=2025-01-13", "a date"),
        ("seed=010", "plain decimal digits"),
        ("data.train={images: ../up, labels: x}", "data.train.images: must be a relative path"),
        ("data.train={images: /etc, labels: x}", "data.train.images: must be a relative path"),
        ('data.train={images: "a\\\\..\\\\b", labels: x}', "must be a relative path"),
        ("data.train={images: x, labels: x, names: ../x}", "data.train.names: must be a relative path"),
        ("data.root=~root/x", "must be followed by"),
        ("data.image_suffix=/../x", "must not contain any of"),
        ("student.overrides={backbone.init_cfg: {type: Pretrained}}", "may not name a file to load"),
        ("student.overrides={backbone.init_cfg.checkpoint: http://x/y.pth}", "may not name a file to load"),
        ("student.overrides={backbone.pretrained: x.pkl}", "may not name a file to load"),
        ("student.overrides={decode_head.loss_decode: {class_weight: x.pkl}}", "a file is not loaded"),
        ("student.overrides.backbone.depth=9999999", "from -65536 to 65536"),
        ("student.overrides.a b=1", "must be letters"),
        ("teacher.checkpoint={url: https://u:p@a/b.pth, sha256: abcdef01}", "without blanks, user names"),
        ('teacher.checkpoint={url: "https://a/b.pth?x=/../../c", sha256: abcdef01}', "without blanks, user names"),
        ("teacher.checkpoint={url: https://a/.., sha256: abcdef01}", "without blanks, user names"),
        ("schedule.iters=99999999999", "less than or equal to 100000000"),
        ("schedule.batch_size=99999999", "less than or equal to 65536"),
        ("schedule={batch_size: 60000, crop: [16000, 16000]}", "more than 1073741824 pixels"),
        ("schedule.lr=1.0e+308", "less than or equal to 1"),
        ("schedule.workers=100000", "an integer from 0 to 256, or `auto`, got 100000"),
        ("data={train_scale: [16000, 16000], ratio_range: [1, 100]}", "more than 1073741824 pixels"),
    ],
)
def test_values_that_cannot_work_are_refused_when_read(override: str, message: str) -> None:
    with pytest.raises(RmrkdError, match=message):
        load_preset("demo", overrides=[override])


def test_joiners_of_a_script_are_kept_and_printed_as_escapes(tmp_path: Path) -> None:
    names = ["می\u200cخواهم", "क्\u200dष", "図"]
    file = write(custom(classes=names), tmp_path / "own.yaml")
    code, out, err = run_main("presets", file)
    assert (code, err, yaml.safe_load(out)["data"]["classes"]) == (0, "", names)
    assert not CONTROL.search(out.replace("\n", ""))


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("student.checkpoint=tv.pth", "must be `{path: FILE}` or `{url: https://…, sha256: …}`, got 'tv.pth'"),
        ("teacher.checkpoint=[a]", "must be `{path: FILE}` or `{url: https://…, sha256: …}`, got ['a']"),
        ("teacher.checkpoint={url: https://a/b.pth, sha256: XYZ}", "must be the first 8 to 64 hexadecimal digits"),
        ("teacher=resnet", "teacher: must be a mapping such as `{config: pspnet/"),
        ("data.train=images", "data.train: must be `{images: FOLDER, labels: FOLDER}`, or `{labels: none}`, got"),
        ("schedule=fast", "schedule: must be a mapping with keys such as `iters`, "),
        ("losses=mgd", "losses: must be a mapping, such as {KEY: VALUE}, got 'mgd'"),
        ("data.classes=a", "data.classes: must be a list, such as [1, 2], got 'a'"),
        ("schedule.crop=512", "schedule.crop: must be a list, such as [1, 2], got 512"),
        ("schedule.crop=[512]", "schedule.crop.1: value 2 of the list is missing"),
        ("schedule.crop=[1, 2, 3]", "schedule.crop: must have at most 2 items, got [1, 2, 3]"),
        ("schedule.iters=1e3", "schedule.iters: must be a whole number, got '1e3'"),
        ("schedule.lr=fast", "schedule.lr: must be a number, got 'fast'"),
        ("deterministic=maybe", "deterministic: must be true or false, got 'maybe'"),
        ("title=3", "title: must be text, got 3 (put it in quotes if it is text)"),
        ("student.config=~me/net.py", "student.config: `~` must be followed by `/`, got '~me/net.py'"),
        ("dataset=imagenet", "dataset: `imagenet` is not allowed (allowed: cityscapes, "),
        ("schedule.learning_rate=1", "schedule.learning_rate: unknown key, did you mean `lr`?"),
        ("epochs=3", "epochs: unknown key, did you mean `schedule.iters`?"),
        ("lr=0.1", "lr: unknown key, did you mean `schedule.lr`?"),
        ("data.crop=[1, 2]", "data.crop: unknown key, did you mean `schedule.crop`?"),
        ("data.ignore_index=255", "data.ignore_index: unknown key, did you mean `ignore_labels`?"),
        ("student.num_classes=3", "student.num_classes: unknown key, did you mean `data.classes`?"),
        ("losses.dkd.temperature=1", "losses.dkd.temperature: unknown key, did you mean `tau`?"),
        ("schedule.optimizer=adamw", "schedule.optimizer: must be `{type: AdamW}`, got 'adamw'"),
        ("schedule.optimizer.type=adam", "schedule.optimizer.type: `adam` is not allowed, did you mean `AdamW`? ("),
        (
            "schedule={optimizer: {type: AdamW}}",
            "schedule: AdamW needs `lr`, such as 6.0e-5: the default of 0.01 is for SGD",
        ),
        ("teacher.schedule.optimizer.type=AdamW", "teacher.schedule: AdamW needs `lr`, such as 6.0e-5"),
        ("schedule.optimizer.betas=[0.9, 1]", "schedule.optimizer.betas.1: must be less than 1, got 1"),
        ("schedule.optimizer.paramwise_cfg=1", "paramwise_cfg: unknown key, did you mean `custom_keys`?"),
        ("schedule.optimizer.custom_keys.norm.wd=0", "norm.wd: unknown key, did you mean `decay_mult`?"),
        ("schedule.warmup.ratio=0.1", "schedule.warmup.iters: required, but missing"),
        ("schedule.warmup_iters=9", "unknown key, the warm-up is `schedule.warmup: {iters: 1500, ratio: 1.0e-6}`"),
        ("schedule.lr_scheduler=cos", "unknown key, the learning rate is polynomial, after a linear `warmup`"),
        ("schedule.zzz=1", "schedule.zzz: unknown key, the nearest of "),
        ("paper.zzz=1", "paper.zzz: unknown key, known: baseline, distilled"),
    ],
)
def test_problems_are_told_in_plain_words(override: str, told: str) -> None:
    message = refusal("demo", override)
    assert told in message
    assert not re.search("valid|instance|tuple|integer|boolean|parse|Preset|Source", message)


def test_a_shipped_preset_is_printed_with_what_its_data_set_gives() -> None:
    code, out, _ = run_main("presets", "psp18w32-psp18w8-camvid")
    assert code == 0
    for line in (
        "classes: [sky, building, pole,",
        "ignore_labels: [11, 255]",
        "image_suffix: .png",
        "root: data/camvid",
    ):
        assert f"#   {line}" in out
    assert Preset.model_validate(yaml.safe_load(out)) == load_preset("psp18w32-psp18w8-camvid")
