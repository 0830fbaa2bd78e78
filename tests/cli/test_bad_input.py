"""Wrong input: exit code 2, a message that names the problem, and no change on disk."""

from __future__ import annotations

import errno
import json
import os
import pickle
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.reader import load_state_dict_checked, read_checkpoint
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.libraries import build_network
from rmrkd_cli.presets.loader import load_preset
from rmrkd_cli.presets.methods import preset_dir
from rmrkd_cli.training.run_directory import RunDir
from tests.helpers.cli import run_main
from tests.report.html import synthetic

PROTOCOL = {
    "dataset": "demo", "split": "val", "images": 80, "fingerprint": "0a1b2c3d4e5f", "classes": ["a", "b"],
    "scale": [128, 128], "scales": [1.0], "flip": False, "mode": "whole",
}  # fmt: skip
TREE = ("leftImg8bit/train/NAME_leftImg8bit.png", "gtFine/train/NAME_gtFine_labelTrainIds.png")


class Bomb:
    """Create a file `exploded` if it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch exploded",)


def fill(folder: Path) -> None:
    """Write the files that CASES names."""
    tensor, head = torch.ones(2), {"decode_head.conv_seg.weight": torch.ones(2, 3, 1, 1)}
    metrics = {"miou": 0.5, "macc": 0.5, "aacc": None, **{key: [0.5, None] for key in ("iou", "accuracy", "dice")}}
    record = {"format": 1, "role": "baseline", "protocol": PROTOCOL, "metrics": metrics}
    other = {**record, "role": "distill", "protocol": {**PROTOCOL, "split": "test", "scale": [64, 64]}}
    for name, held in {
        "foreign.pth": {"encoder.0.weight": tensor, "encoder.0.bias": tensor}, "numbers.pth": {"epoch": 3},
        "bomb.pth": {"state_dict": {"x": tensor}, "meta": Bomb()},
        "scalar.pth": {"decode_head.conv_seg.weight": torch.tensor(1.0)}, "plain.pth": {"state_dict": head},
        "weights.pth": {"meta": {"config": f"model = {model(class_weight='bomb.pkl')}"}, "state_dict": head},
        "code.pth": {"meta": {"config": "import os\nos.system('touch exploded')"}, "state_dict": head},
        "released.pth": {"state_dict": {"student.decode_head.x": tensor, "teacher.x": tensor}},
        "teacher.pth": {"state_dict": {"teacher.backbone.x": tensor}}, "taken.pth": {"state_dict": head},
    }.items():  # fmt: skip
        torch.save(held, folder / name)
    small = build_network(model(), device="cpu")
    torch.save({"meta": {"config": f"model = {model()}"}, "state_dict": small.state_dict()}, folder / "small.pth")
    (folder / "bomb.pkl").write_bytes(pickle.dumps(Bomb()))
    (folder / "raw-bomb.pth").write_bytes(pickle.dumps({"state_dict": Bomb()}, protocol=2))
    (folder / "cut.pth").write_bytes((folder / "plain.pth").read_bytes()[:-200])
    for name, text in {
        "page.pth": "<html>Not found</html>", "log.pth": "epoch 1: loss 0.5\n", "empty.pth": "",
        "text.safetensors": "text", "a.json": json.dumps(record), "b.json": json.dumps(other), "cut.json": "[{",
        "bare.json": json.dumps({"format": 1, "metrics": {}}), "list.yaml": "- 1", "cut.yaml": "dataset: [",
        "taken.png": "",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    fill_presets(folder)
    fill_records(folder, record)
    for name in ("train/0.png", "trainannot/0.png", "val/0.png", "valannot/0.png"):
        for file in (folder / "camvid" / name, folder / "half" / name):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    (folder / "half/valannot/0.png").unlink()
    (folder / "hollow").mkdir()
    fill_runs(folder / "runs")


def fill_runs(folder: Path) -> None:
    synthetic.log(folder / "good")
    texts = {
        "strange": '{"iter": 1, "val_miou": 7}\n', "none": "", "bare": '{"iter": 1, "losses": {}}\n',
        "binary": "\0" * 50 + "\n",
    }  # fmt: skip
    for name, text in texts.items():
        (folder / name).mkdir()
        (folder / name / "log.jsonl").write_text(text)


def model(**loss: Any) -> dict[str, Any]:
    """Return the config of a small network, as a checkpoint contains it."""
    backbone = {"type": "ResNetV1c", "depth": 18, "base_channels": 8, "stem_channels": 8}
    head = {"type": "FCNHead", "in_channels": 64, "channels": 8, "num_classes": 2}
    return {
        "type": "EncoderDecoder", "backbone": backbone,
        "decode_head": {**head, "loss_decode": {"type": "CrossEntropyLoss", **loss}},
    }  # fmt: skip


def fill_presets(folder: Path) -> None:
    demo = (preset_dir() / "demo.yaml").read_text()
    laughs = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(20))
    for name, text in {
        "bomb.yaml": f"a0: &a0 x\n{laughs}", "deep.yaml": "[" * 100_000, "big.yaml": "a: 1\n" * 2_000_000,
        "tag.yaml": "title: !!python/object/apply:os.system [touch exploded]", "two.yaml": "a: 1\n---\nb: 1\n",
        "twice.yaml": f"{demo}seed: 1\nseed: 2\n", "nul.yaml": "dataset: demo\ntitle: a\0b", "self.yaml": "a: &a [*a]",
        "octal.yaml": f"{demo}seed: 010\n", "escape.yaml": demo.replace("PSPNet", '"\\e[2J').replace("images", 'x"', 1),
        "own.yaml": "dataset: custom\ndata: {classes: [yes, no]}\n", "empty.yaml": "", "tab.yaml": "data:\n\troot: x",
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    (folder / "latin.yaml").write_bytes(b"dataset: demo\ntitle: caf\xe9")
    (folder / "utf16.yaml").write_bytes(demo.encode("utf-16"))
    os.mkfifo(folder / "fifo.yaml")


def fill_records(folder: Path, record: dict[str, Any]) -> None:
    protocol, metrics = record["protocol"], record["metrics"]
    for name, held in {
        "classes.json": {**record, "protocol": {**protocol, "classes": "ab"}},
        "text.json": {**record, "metrics": {**metrics, "miou": "0.5"}},
        "short.json": {**record, "metrics": {**metrics, "iou": [0.5]}},
        "seed.json": {**record, "seed": -1}, "scale.json": {**record, "protocol": {**protocol, "scale": [10**9, 1]}},
        "slide.json": {**record, "protocol": {**protocol, "mode": "slide", "window": [64, 64], "stride": [43, 43]}},
        "gaps.json": {**record, "protocol": {**protocol, "mode": "slide", "window": [64, 64], "stride": [65, 43]}},
        "counts.json": {**record, "per_image": {"names": ["0"], "counts": [[]]}},
        "list.json": [record, 5], "later.json": {**record, "format": 2},
    }.items():  # fmt: skip
        (folder / name).write_text(json.dumps(held))
    (folder / "nan.json").write_text(json.dumps(record).replace("null", "NaN"))
    (folder / "huge.json").write_text(json.dumps(record).replace("0.5", "9" * 5000))
    (folder / "deep.json").write_text(json.dumps({**record, "x": 0})[:-2] + "[" * 5000 + "]" * 5000 + "}")
    (folder / "large.json").write_bytes(b" " * (65 << 20) + b"{}")


CITY, CAMVID = "train --preset psp101-psp18-city", "train --preset psp18w32-psp18w8-camvid --data-root camvid"
CASES: dict[str, tuple[str, ...]] = {  # a command, and parts of its message
    "train --preset psp101-psp18-cty": ("psp101-psp18-cty", "did you mean `psp101-psp18-city`?"),
    "presets nothing-like-it": ("nothing-like-it", "known: demo, dl101-dlmbv2-city"),
    "methods cirdk": ("`cirdk`", "did you mean `cirkd`?"), "methods ../mgd": ("../mgd", "did you mean `mgd`?"),
    "train --preset no/such.yaml": ("no/such.yaml", "does not exist"),
    "presets list.yaml": ("list.yaml", "must be a mapping"), "presets cut.yaml": ("cut.yaml", "is not YAML"),
    f"{CITY} --role studnet": ("role", "studnet", "distill"),
    f"{CITY} --method mgdd": ("mgdd", "did you mean `mgd`?"),
    f"{CITY} --set tittle=x": ("tittle", "`title`"),
    f"{CITY} --set schedule.itres=5": ("schedule.itres", "`iters`"),
    f"{CITY} --set losses.rmrkd.tua=1": ("losses.rmrkd.tua", "`tau`"),
    f"{CITY} --set teacher.checkpoint.md5=1 --set sede=1": ("2 problem(s)", "teacher.checkpoint.md5", "sede", "`seed`"),
    f"{CITY} --set schedule.lr=fast": ("schedule.lr", "'fast'"),
    f"{CITY} --set losses.mgd.mask_ratio=2": ("losses.mgd.mask_ratio", "2"),
    f"{CITY} --set losses.mgd.stage=4.0": ("losses.mgd.stage: must be one of 1, 2,", "4.0"),
    f"{CITY} --method cirkd --set losses.cirkd.pool=2.0": ("losses.cirkd.pool: must be one of 1, 2", "2.0"),
    f"{CITY} --method dsd --set losses.psd.stage=[head,head]": ("losses.psd.stage: must name each map once", "`head`"),
    f"{CITY} --set losses.x.tau=4": ("losses.x: `type` is required", "missing"),
    f"{CITY} --set losses.x.type=5": ("losses.x: `type` must be a name", "5"),
    f"{CITY} --set losses.x=kd": ("losses.x: must be a mapping with a `type`", "kd"),
    f"{CITY} --set schedule.lr": ("--set schedule.lr", "key.path=value"),
    f"{CITY} --batch-size 0": ("--batch-size",), f"{CITY} --device tpu": ("--device",),
    f"{CITY} --resume --fresh": ("--resume", "--fresh"),
    f"{CITY} --seed 1 --seeds 1,2": ("--seed and --seeds exclude", "--seeds 1"),
    f"{CITY} --seeds 0,x": ("`x` is not an integer", "--seeds 0,1,2"), f"{CITY} --seeds=": ("--seeds", "integer"),
    f"{CITY} --seeds 1,-2": ("`-2`", "from 0"), f"{CITY} --seeds 1,02,2": ("names 2 more than once",),
    f"{CITY} --seeds {','.join(map(str, range(101)))}": ("101 seeds", "at most 100"),
    f"{CITY} --seeds {2**31}": (str(2**31), "too large"),
    f"{CITY} --time-budget soon": ("schedule.time_budget", "2h, 90m, 1h30m or 45s", "'soon'"),
    f"{CITY} --time-budget 0": ("schedule.time_budget", "greater than or equal to 1", "got 0"),
    f"{CITY} --time-budget 9000h": ("schedule.time_budget", "31536000"),
    f"{CITY} --time-budget 2h --max-iters 9": ("--max-iters exclude", "--set teacher.schedule.iters=9"),
    f"{CITY} --set schedule.time_budget=2h --max-iters 9": ("no effect on the students", "schedule.time_budget=null"),
    f"{CITY} --time-budget 2h --role teacher": ("only the teacher", "--set teacher.schedule.time_budget=2h"),
    f"{CITY} --set teacher.schedule.iters=-5": ("teacher.schedule.iters", "greater than or equal to 1", "got -5"),
    f"{CITY} --nodes 2": ("--nodes 2", "--rdzv-endpoint"), f"{CITY} --node-rank 1": ("--node-rank 1",),
    f"{CITY} --gpus 8 --device cuda": ("--gpus 8", "this machine has 0", "--device cpu"),
    f"{CITY} --gpus 8": ("--gpus 8", "this machine has 0"),
    f"{CITY} --data-root nowhere": ("`nowhere` does not exist", "--data-root", *TREE),
    f"{CITY} --data-root hollow": ("`leftImg8bit/train`, `gtFine/train` missing in `hollow`", "--data-root", *TREE),
    "train --preset psp101-psp18-voc12aug --data-root hollow": ("aug.txt", "(one NAME a line)"),
    f"{CAMVID} --data-root half": ("1 of 1 label files", "valannot/0.png"),
    f"{CAMVID} --role distill --work-dir new": ("new/teacher/student.pth", "--role teacher"),
    f"{CAMVID} --role distill --teacher-checkpoint no.pth": ("no.pth", "does not exist"),
    f"{CAMVID} --role all --teacher-checkpoint no.pth --work-dir new1": ("no.pth", "does not exist"),
    f"{CAMVID} --role baseline --student-checkpoint no.pth --work-dir new2": ("no.pth", "does not exist"),
    "eval": ("no checkpoint and no data set", "rmrkd eval --dataset"),
    "eval plain.pth --dataset citiscapes": ("citiscapes", "did you mean `cityscapes`?"),
    "eval --dataset camvid": ("no student for `camvid`", "work_dirs"), "eval no.pth": ("no.pth", "does not exist"),
    "eval foreign.pth": ("foreign.pth", "decode_head.conv_seg.weight"), "eval scalar.pth": ("scalar.pth",),
    "eval numbers.pth": ("numbers.pth", "`epoch`"), "eval page.pth": ("page.pth", "is not a readable checkpoint"),
    "eval log.pth": ("log.pth", "is not a readable checkpoint"),
    "eval empty.pth": ("empty.pth", "is not a readable checkpoint"),
    "eval cut.pth": ("cut.pth", "is not a readable checkpoint"),
    "eval text.safetensors": ("text.safetensors", "is not a readable safetensors file"),
    "eval bomb.pth": ("bomb.pth", "system"), "eval raw-bomb.pth": ("raw-bomb.pth", "system"),
    "eval weights.pth --dataset demo": ("class_weight", "bomb.pkl"),
    "eval code.pth": ("config", "line 1", "import os", "--preset"), "eval plain.pth": ("plain.pth", "--preset"),
    "eval teacher.pth": ("teacher.pth", "`student.`"), "eval plain.pth --scales big": ("--scales", "big"),
    "eval plain.pth --scales 1,,2": ("--scales", "1,,2"),
    "eval plain.pth --save-predictions camvid": ("camvid", "not empty"),
    "eval plain.pth --mode slid": ("`--mode slid`", "did you mean `slide`?"),
    "eval plain.pth --crop 512x512": ("--crop", "--mode slide"),
    "eval plain.pth --stride 3": ("--stride", "--mode slide"),
    "eval plain.pth --mode slide --crop 0x9": ("--crop `0x9`", "HEIGHTxWIDTH", "from 1 to 16384"),
    "eval plain.pth --mode slide --crop 512,512": ("--crop `512,512`", "--crop 512x1024"),
    "eval plain.pth --mode slide --stride=-3x3": ("--stride `-3x3`",),
    "eval plain.pth --mode slide --crop 99999": ("99999", "16384"),
    "eval plain.pth --mode slide --crop 64x64 --stride 32x65": ("--stride 32x65 is more than --crop 64x64",),
    "eval plain.pth --batch-size 0": ("--batch-size 0",), "eval plain.pth --workers=-1": ("--workers -1",),
    "eval plain.pth --label-ids": ("--label-ids", "--save-predictions DIR"),
    "eval plain.pth --class-indices": ("--class-indices", "--save-predictions DIR"),
    "compare a.json slide.json": ("inference mode: whole in `baseline`, slide", "window: None", "stride: None"),
    "compare a.json gaps.json": ("gaps.json", "larger than window"),
    "compare a.json counts.json": ("counts.json", "per_image has 1 names and 1 lists of counts for 80 images"),
    "transfer no.pth out.pth": ("no.pth", "does not exist"),
    "transfer no.pth taken.pth --force": ("no.pth", "does not exist"),
    "transfer bomb.pth out.pth": ("bomb.pth", "system"),
    "transfer released.pth taken.pth": ("taken.pth", "already exists", "--force"),
    "transfer released.pth released.pth --force": ("same file",),
    "transfer released.pth out.pth --config taken.pth": ("taken.pth", "already exists"),
    "transfer released.pth out.pth --config out.py": ("released.pth", "no config"),
    "transfer plain.pth out.pth": ("plain.pth", "already a plain checkpoint"),
    "transfer foreign.pth out.pth": ("foreign.pth",),
    "transfer teacher.pth out.pth": ("teacher.pth", "`student.`", "keys start with teacher"),
    "predict plain.pth camvid --out plain.pth": ("`plain.pth` is a file",),
    "predict no.pth camvid --out new": ("no.pth", "does not exist"),
    "predict plain.pth camvid --out camvid": ("`camvid` is not empty",),
    "predict plain.pth camvid --out new": ("plain.pth", "--preset"),
    "predict camvid camvid --out new": ("`camvid` is a folder",),
    "predict bomb.pth camvid --out new": ("bomb.pth", "system"),
    "predict plain.pth camvid --out new --scale 9x9": ("--scale `9x9`", "32 to 16384", "--scale 1024x512"),
    "predict plain.pth camvid --out new --scales big": ("--scales", "big"),
    "predict plain.pth camvid --out new --opacity 2": ("--opacity 2",),
    "predict plain.pth camvid --out new --overlay jpeg": ("`--overlay jpeg`", "jpg"),
    "predict plain.pth camvid --out new --dataset citiscapes": ("citiscapes", "did you mean `cityscapes`?"),
    "predict small.pth nowhere --out new": ("`nowhere` does not exist", "folders"),
    "predict small.pth hollow --out new": ("`hollow` contains no image or video", ".png"),
    "predict small.pth camvid --out new --dataset camvid": ("predicts 2 classes, `camvid` has 11", "--dataset"),
    "predict small.pth camvid --out new --dataset custom": ("--preset FILE",),
    "export plain.pth out.txt": ("`out.txt`", "OUT.onnx, or OUT.pt"), "export no.pth out.pt": ("no.pth",),
    "export plain.pth out.onnx --format torchscript": ("`out.onnx`", "torchscript"),
    "export plain.pth plain.pth --format onnx": ("same file",), "export plain.pth out.onnx": ("plain.pth", "--preset"),
    "export plain.pth a.json --format onnx": ("`a.json` already exists",),
    "export bomb.pth out.pt": ("bomb.pth", "system"),
    "export plain.pth out.onnx --no-check": ("`--no-check`",), "export plain.pth out.onnx --scale 1": ("--scale `1`",),
    "export plain.pth out.pt --tolerance 2": ("--tolerance 2",),
    "export small.pth out.pt --check-images hollow": ("`hollow` contains no image",),
    "compare a.json": ("two or more", "got 1"), "compare one.pth": ("two or more", "got 1"),
    "compare a.json a.json --max-images 3": ("finished measurements", "rmrkd eval --json"),
    "plot": ("RUN",), "plot nowhere": ("`nowhere` does not exist",),
    "plot runs": ("`runs` is not a run directory", "log.jsonl", "runs/good"),
    "plot hollow": ("`hollow` is not a run directory", "work_dirs"),
    "plot runs/strange": ("line 1", "`val_miou` is 7"), "plot runs/none": ("no logged step yet",),
    "plot runs/binary": ("line 1", "is not JSON"), "plot runs/good camvid": ("`camvid` is not a run directory",),
    "plot runs/good --out runs": ("--out runs", ".png"), "plot runs/bare": ("no log has a loss", "another run"),
    "plot runs/bare --x seconds": ("seconds of its steps", "--x iterations"),
    "plot runs/good --out x.jpg": ("x.jpg", "did you mean `.png`?"),
    "plot runs/good --smooth 1": ("--smooth 1", "0.999"), "plot runs/good --smooth nan": ("--smooth nan",),
    "plot runs/good --x epochs": ("epochs", "iterations"),
    "plot runs/good --out taken.png": ("`taken.png` already exists",),
    "compare a.json b.json": ("split: val in `baseline`, test in `distill`", "image scale: [128, 128]", "[64, 64]"),
    "compare a.json no.json": ("no.json",), "compare a.json cut.json": ("cut.json", "is not a result file"),
    "compare a.json bare.json": ("bare.json", "is not a result file"),
    "compare a.json no.pth": ("no.pth", "does not exist"),
    "compare a.json a.json --report camvid": ("camvid", "not empty"),
    "data check citiscapes": ("citiscapes", "did you mean `cityscapes`?"),
    "data check city --data-root nowhere": ("1 problem in `nowhere`", "--data-root"),
    "data check camvid --data-root hollow": ("4 problems in `hollow`", "--data-root"),
    "data check camvid --data-root camvid --split tset": ("no split `tset`", "did you mean `test`?"),
    "data check custom": ("needs a preset", "--preset FILE"),
    "data check city --preset demo": ("preset `demo` is for `demo`, not for `cityscapes`",),
    "data check camvid --workers 0": ("--workers",), "data": ("check", "prepare"),
    "data prepare camvid": ("`camvid` needs no preparation", "rmrkd data check camvid"),
    "data prepare city --data-root hollow": ("hollow/gtFine", "NAME_gtFine_labelIds.png", "gtFine_trainvaltest"),
    "data prepare voc12aug --data-root hollow": ("needs the SBD annotations", "--sbd DIR"),
    "data prepare voc --data-root hollow --sbd hollow": ("`hollow` does not contain VOC 2012", "VOCtrainval_11-May-"),
    "data prepare city --sbd hollow": ("--sbd is for voc12aug",),
    "data chekc camvid": ("`chekc`", "did you mean `check`?", "rmrkd data --help"),
    "trian": ("`trian`", "did you mean `train`?", "rmrkd --help"),
    "train": ("`--preset` is missing", "rmrkd train --help"), "train --preset": ("--preset", "argument"),
    f"{CITY} --resum": ("`--resum`", "did you mean `--resume`?", "rmrkd train --help"),
    f"{CITY} --resume=3": ("--resume", "value"), f"{CITY} --cache disc": ("`--cache disc`", "did you mean `disk`?"),
    f"{CITY} --gpus 0": ("`--gpus 0`", "greater than or equal to 1"), f"{CITY} --gpus x": ("`--gpus x`", "integer"),
    f"{CITY} --gpus {10**30}": ("--gpus", "1024"), f"{CITY} --seed {2**40}": ("seed", str(2**40)),
    f"{CITY} --nodes 2 --rdzv-endpoint h:99999": ("`h:99999`", "HOST:PORT"), "transfer a": ("`OUT` is missing",),
    "transfer a b c": ("(c)", "rmrkd transfer --help"), "presets a b": ("(b)",), "methods a b": ("(b)",),
    "eval --max-images=0": ("--max-images 0",),
    "-x": ("`-x`",), "eval plain.pth --scales 1e999": ("1e999", "0.05 to 8"), "eval plain.pth --scales nan": ("nan",),
    f"eval plain.pth --scales {','.join('1' * 99)}": ("1 to 32 numbers",),
    f"{CITY} --set seed={'9' * 5000}": ("--set seed",),
    f"{CITY} --set title={'x' * 2000}": ("title", "1000"), f"{CITY} --set schedule.iters=1e999": ("schedule.iters",),
    f"presets {'x' * 300}.yaml": ("too long",), f"eval {'x' * 300}.pth": ("too long",),
    "eval plain.pth/x": ("plain.pth/x",),
    "eval plain.pth --json camvid": ("`camvid` is a folder",),
    "eval plain.pth --json a.json": ("`a.json` already exists",),
    "eval plain.pth --json plain.pth": ("`plain.pth` already exists",),
    "eval plain.pth --json /dev/null": ("`/dev/null` already exists",),
    "eval plain.pth --json a.json/x.json": ("`a.json/x.json`", "is not a folder"),
    "eval plain.pth --save-predictions a.json": ("`a.json` is a file",),
    "eval plain.pth --save-predictions a.json/x": ("`a.json/x`", "is not a folder"),
    "compare a.json a.json --json a.json": ("`a.json` already exists",),
    "compare a.json a.json --report a.json": ("is a file",),
    "transfer released.pth camvid": ("`camvid` is a folder",),
    "transfer released.pth a.json/out.pth": ("not a folder",),
    "transfer released.pth out.pth --config released.pth --force": ("same file",),
    "transfer released.pth out.pth --config out.pth": ("same file",), "presets bomb.yaml": ("bomb.yaml", "anchor"),
    "presets deep.yaml": ("deep.yaml", "nested deeper"), "presets big.yaml": ("big.yaml", "larger than 131072 bytes"),
    "presets tag.yaml": ("tag.yaml", "line 1", "!!python/object/apply:os.system"),
    "presets two.yaml": ("two.yaml", "line 2"),
    "presets twice.yaml": ("twice.yaml", "the key `seed` is given twice"),
    "presets nul.yaml": ("nul.yaml", "line 2", "U+0000"),
    "presets self.yaml": ("self.yaml", "the anchor or alias `a`"), "presets octal.yaml": ("octal.yaml", "`010`"),
    "presets escape.yaml": ("escape.yaml", "title", "U+001B"), "presets empty.yaml": ("empty.yaml", "mapping", "None"),
    "presets own.yaml": ("5 problem(s)", "data.classes.0", "quotes", "`data.train`", "teacher: required",
    "student: req"),
    "presets latin.yaml": ("latin.yaml", "line 2", "0xe9", "UTF-8"),
    "presets utf16.yaml": ("utf16.yaml", "line 1", "UTF-8"),
    "presets tab.yaml": ("tab.yaml", "line 2"), "presets fifo.yaml": ("fifo.yaml", "not a regular file"),
    "presets /dev/zero": ("/dev/zero", "not a regular file"), "presets ./camvid": ("camvid", "is a folder"),
    "eval plain.pth --preset bomb.yaml": ("bomb.yaml", "anchor"), "train --preset tag.yaml": ("tag.yaml", "!!python"),
    "compare a.json classes.json": ("classes.json", "protocol.classes", "valid list", "'ab'"),
    "compare a.json text.json": ("text.json", "metrics.miou", "'0.5'"), "compare a.json nan.json": ("nan.json", "NaN"),
    "compare a.json short.json": ("short.json", "metrics.iou has 1 values for 2 classes"),
    "compare a.json seed.json": ("seed.json", "seed", "-1"), "compare a.json huge.json": ("huge.json",),
    "compare a.json scale.json": ("scale.json", "protocol.scale.0", "16384"),
    "compare a.json deep.json": ("deep.json", "deep"),
    "compare a.json list.json": ("result 2 of `list.json`", "is not a result file"),
    "compare a.json later.json": ("later.json",),
    "compare a.json large.json": ("large.json", "64 MiB"), "compare a.json camvid": ("camvid",),
}  # fmt: skip


def run(*args: str) -> tuple[int, str]:
    """Return the exit code, and stdout and stderr together."""
    code, out, err = run_main(*args)
    return code, out + err


Stamps = dict[str, tuple[int, int, int, int] | None]


def contents(folder: Path) -> Stamps:
    """Return every path below a folder, and of files the size, times and inode, which a rewrite changes.

    The bytes are not read: some inputs have 65 MiB, and this is called thousands of times.
    """
    found: Stamps = {}
    folders = [str(folder)]
    while folders:
        for entry in os.scandir(folders.pop()):
            stamp = None
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.path)
            else:
                status = entry.stat(follow_symlinks=False)
                stamp = status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino
            found[entry.path[len(str(folder)) + 1 :]] = stamp
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    fill(folder)
    return folder


@pytest.fixture(autouse=True)
def here(filled: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the working directory, without GPU and cache; a training that starts fails the test."""

    def train(job: object) -> None:
        raise AssertionError("training began")

    monkeypatch.chdir(filled)
    monkeypatch.setenv("RMRKD_CACHE", str(filled / "cache"))
    monkeypatch.setattr("rmrkd_cli.training.trainer.run_training", train)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    return filled


@pytest.mark.parametrize("command", CASES, ids=list(CASES))
def test_wrong_input_is_explained(command: str, here: Path) -> None:
    before = contents(here)
    code, text = run(*shlex.split(command))
    assert code == 2, text
    assert [part for part in CASES[command] if part not in text] == [], text
    assert "Traceback" not in text
    assert contents(here) == before


def test_a_comparison_names_only_the_lines_that_differ() -> None:
    _, text = run("compare", "a.json", "b.json")
    listed = [line.strip().split(":")[0] for line in text.splitlines() if line.startswith("  ")]
    assert listed == ["split", "image scale"]


def test_main_prints_the_message_and_the_hint_to_stderr() -> None:
    expected = "error: `taken.pth` already exists\n\nhint: choose another name, or replace it with --force\n"
    assert run_main("transfer", "released.pth", "taken.pth") == (2, "", expected)


def test_the_checkpoint_reader_raises_no_other_error(tmp_path: Path) -> None:
    file, whole = tmp_path / "x.pth", Path("plain.pth").read_bytes()
    texts = [bytes([byte]) + b" 1: loss 0.5\n" for byte in range(256)]
    escaped: dict[bytes, str] = {}
    for data in [*texts, *(whole[:size] for size in range(0, len(whole), 37))]:
        file.write_bytes(data)
        try:
            read_checkpoint(file)
        except Exception as error:
            if not isinstance(error, RmrkdError) or "x.pth" not in error.message:
                escaped[data[:20]] = repr(error)
    assert escaped == {}


def test_mismatched_keys_are_listed_in_groups() -> None:
    def block() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))

    network = nn.ModuleDict({"backbone": block(), "decode_head": block()})
    before = {key: value.clone() for key, value in network.state_dict().items()}
    state = {key: value for key, value in network.state_dict().items() if not key.startswith("decode_head.1.")}
    state |= {"neck.0.weight": torch.ones(1), "neck.0.bias": torch.ones(1), "backbone.0.weight": torch.ones(9)}
    with pytest.raises(RmrkdError) as caught:
        load_state_dict_checked(network, state, "some.pth", hint="another preset?")
    assert (caught.value.exit_code, caught.value.hint) == (2, "another preset?")
    assert caught.value.message.splitlines() == [
        "`some.pth` does not match the network: it has 8 of the network's 14 tensors:",
        "  missing: decode_head.1 (4)",
        "  unexpected: neck.0 (2)",
        "  shape mismatch: backbone.0.weight is (9,), expected (4, 3, 1, 1)",
    ]
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("resume", [False, True])
def test_a_directory_of_another_run_is_left_alone(resume: bool, tmp_path: Path) -> None:
    files, demo = RunDir(tmp_path / "work" / "distill"), load_preset("demo")
    files.create(demo, fresh=False)
    (files.path / "iter_5.pth").write_bytes(b"weights")
    before = contents(tmp_path)
    with pytest.raises(RmrkdError) as caught:
        files.check_usable(load_preset("demo", overrides=["schedule.lr=0.5"]), resume=resume, fresh=False)
    assert caught.value.exit_code == 2
    assert str(files.path) in caught.value.message
    assert "--fresh" in caught.value.hint
    assert ("schedule.lr: 0.02 in the run, 0.5 now" in caught.value.message) is resume
    assert contents(tmp_path) == before


def test_fresh_renames_the_other_run(tmp_path: Path) -> None:
    files = RunDir(tmp_path / "distill")
    for number, rate in enumerate(("0.5", "0.25", "0.125")):
        preset = load_preset("demo", overrides=[f"schedule.lr={rate}"])
        files.check_usable(preset, resume=False, fresh=number > 0)
        files.create(preset, fresh=number > 0)
        (files.path / f"iter_{number}.pth").touch()
    assert {path.name for path in tmp_path.iterdir()} == {"distill", "distill.old1", "distill.old2"}
    for name, number, rate in (("distill.old1", 0, "0.5"), ("distill.old2", 1, "0.25"), ("distill", 2, "0.125")):
        assert {path.name for path in (tmp_path / name).iterdir()} == {"config.yaml", f"iter_{number}.pth"}
        assert f"lr: {rate}\n" in (tmp_path / name / "config.yaml").read_text()


def test_a_run_that_never_started_leaves_its_directory_free(tmp_path: Path) -> None:
    files = RunDir(tmp_path / "distill")
    files.create(load_preset("demo"), fresh=False)
    other = load_preset("demo", overrides=["schedule.lr=0.5"])
    files.check_usable(other, resume=False, fresh=False)
    files.create(other, fresh=False)
    assert "lr: 0.5" in files.config.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["distill"]


@pytest.mark.parametrize(("role", "refused"), [("teacher", False), ("baseline", False), ("distill", True)])
def test_only_what_a_role_depends_on_makes_it_another_run(role: str, refused: bool, tmp_path: Path) -> None:
    files = RunDir(tmp_path / role)
    files.create(load_preset("demo", overrides=[f"role={role}"]), fresh=False)
    (files.path / "iter_5.pth").touch()
    other = load_preset("demo", method="mgd", overrides=[f"role={role}"])
    if refused:
        with pytest.raises(RmrkdError, match="method: rmrkd in the run, mgd now"):
            files.check_usable(other, resume=True, fresh=False)
    else:
        files.check_usable(other, resume=True, fresh=False)


def test_a_folder_without_write_permission_is_rejected_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.access is patched, because root may write everywhere."""
    monkeypatch.setattr("os.access", lambda path, mode: not mode & os.W_OK)
    for command in (
        "eval plain.pth --json new.json",
        "eval plain.pth --save-predictions new",
        "compare a.json a.json --report new",
        "transfer released.pth new.pth",
    ):
        code, text = run(*shlex.split(command))
        assert (code, "no write permission" in text) == (2, True), text


def test_rmrkd_alone_prints_the_help() -> None:
    code, out, err = run_main()
    assert (code, err) == (2, "")
    assert "Usage: rmrkd" in out


@pytest.mark.parametrize(("number", "code"), [(errno.ENAMETOOLONG, 2), (errno.ENOTDIR, 2), (errno.ENOSPC, 1)])
def test_errors_of_the_system_name_the_file(number: int, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise OSError(number, os.strerror(number), "some\x1bfile")

    monkeypatch.setattr("rmrkd_cli.presets.loader.load_preset", fail)
    expected = f"error: {os.strerror(number)}: `some\\x1bfile`\n"
    assert run_main("presets", "demo") == (code, "", expected)
