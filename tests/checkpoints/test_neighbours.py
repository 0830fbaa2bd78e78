"""Checkpoints of other training programs: the network is found, or the message says what the file is."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from rmrkd_cli.checkpoints.foreign_networks import describe_network
from rmrkd_cli.checkpoints.mismatch import mismatch_error
from rmrkd_cli.checkpoints.network_state import strip_common_prefix
from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.errors import RmrkdError
from tests.helpers.cli import rmrkd
from tests.helpers.mmengine import HistoryBuffer, mmengine_modules

NETWORK = {
    "backbone.conv1.weight": torch.arange(4.0).view(2, 2),
    "backbone.layer1.0.conv1.weight": torch.ones(2),
    "decode_head.conv_seg.weight": torch.ones(3, 2, 1, 1),
    "decode_head.conv_seg.bias": torch.zeros(3),
}
State = dict[str, Any]


def under(prefix: str, state: State = NETWORK, factor: float = 1.0) -> State:
    return {prefix + key: factor * value for key, value in state.items()}


TEACHER = {key: -value for key, value in NETWORK.items()}
WRAPPED: dict[str, State] = {
    "compiled": {"state_dict": under("_orig_mod.")},
    "data-parallel": {"state_dict": under("module.")},
    "lightning": {"state_dict": under("model."), "epoch": 3, "loops": {"fit_loop": {"state_dict": {}}}},
    "lightning-with-a-loss": {"state_dict": under("model.") | {"criterion.weight": torch.ones(3)}, "epoch": 3},
    "a-name-of-its-own": {"state_dict": under("segmentation_net.")},
    "two-prefixes": {"state_dict": under("module._orig_mod.")},
    "three-prefixes": {"state_dict": under("model.module._orig_mod.")},
    "compiled-parts": {"state_dict": {key.replace(".", "._orig_mod.", 1): value for key, value in NETWORK.items()}},
    "mmrazor": {"state_dict": under("architecture.") | under("teacher.", TEACHER)},
    "mmrazor-0": {"state_dict": under("architecture.model.") | under("distiller.teacher.", TEACHER)},
    "mmrazor-with-connectors": {
        "state_dict": under("architecture.") | under("teacher.", TEACHER) | {"distiller.a.weight": torch.ones(1)},
    },
    "teacher-beside-a-student": {"state_dict": NETWORK | under("teacher.", TEACHER)},
    "averaged": {"model": {"n_averaged": torch.ones(()), **under("module.")}},
    "ema-only": {"ema": under("module.")},
    **{
        f"under-{key}": {key: NETWORK, "epoch": 3, "optimizer": {"state": {0: {"momentum": torch.ones(2)}}}}
        for key in ("model", "net", "model_state_dict", "network", "my_model")
    },
    "nested-twice": {"model": {"state_dict": under("module.")}, "epoch": 1},
    "nested-thrice": {"checkpoint": {"model": {"state_dict": NETWORK}}},
    "model-and-ema": {"model": NETWORK, "ema": TEACHER},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_the_network_is_found(name: str, tmp_path: Path) -> None:
    torch.save(WRAPPED[name], tmp_path / "in.pth")
    found = read_checkpoint(tmp_path / "in.pth")
    assert found.kind == "wrapped"
    assert found.note
    state = found.student()
    assert state.keys() == NETWORK.keys()
    assert all(torch.equal(state[key], NETWORK[key]) for key in NETWORK)
    if name in ("lightning", "mmrazor", "nested-twice"):
        assert rmrkd("transfer", tmp_path / "in.pth", tmp_path / "out.pth").exit_code == 0
        assert read_checkpoint(tmp_path / "out.pth").kind == "plain"
        assert read_checkpoint(tmp_path / "out.pth").state.keys() == NETWORK.keys()


def test_a_plain_file_and_a_distiller_stay_what_they_are(tmp_path: Path) -> None:
    torch.save({"state_dict": NETWORK}, tmp_path / "plain.pth")
    torch.save(NETWORK, tmp_path / "bare.pth")
    torch.save({"state_dict": under("module.student.") | under("module.teacher.", TEACHER)}, tmp_path / "distiller.pth")
    assert {read_checkpoint(tmp_path / name).kind for name in ("plain.pth", "bare.pth")} == {"plain"}
    distiller = read_checkpoint(tmp_path / "distiller.pth")
    assert distiller.kind == "released"
    assert distiller.student().keys() == NETWORK.keys()


def test_several_networks_are_named_with_the_line_that_takes_one(tmp_path: Path) -> None:
    torch.save({"state_dict": under("first.") | under("second.")}, tmp_path / "two.pth")
    with pytest.raises(RmrkdError, match=r"several networks: `first\.`, `second\.`") as failure:
        read_checkpoint(tmp_path / "two.pth")
    line = failure.value.hint.partition("example: ")[2].replace("weights.pth", str(tmp_path / "weights.pth"))
    exec(line, {"torch": torch})
    assert read_checkpoint(tmp_path / "weights.pth").state.keys() == NETWORK.keys()
    torch.save({"generator": under("a."), "critic": under("b.")}, tmp_path / "gan.pth")
    with pytest.raises(RmrkdError, match="several state dicts"):
        read_checkpoint(tmp_path / "gan.pth")


def test_a_prefix_that_only_the_network_knows_is_named() -> None:
    own = {"conv1.weight": torch.ones(2), "layer1.0.weight": torch.ones(3)}
    moco = {"encoder_q.conv1.weight": torch.ones(2), "encoder_q.layer1.0.weight": torch.ones(3), "queue": torch.ones(1)}
    error = mismatch_error("no match", own, moco, "moco.pth", hint="give another file")
    assert "the prefix `encoder_q.`" in error.message
    assert 'k.startswith("encoder_q.")' in error.hint


def test_parts_of_a_network_are_no_prefix() -> None:
    backbone = {"backbone.conv1.weight": torch.ones(1), "backbone.layer1.weight": torch.ones(1)}
    assert strip_common_prefix(backbone) == (backbone, "")
    layer = {"fc.weight": torch.ones(1), "fc.bias": torch.ones(1)}
    assert strip_common_prefix(layer) == (layer, "")


@pytest.fixture
def mmengine() -> Iterator[None]:
    with mmengine_modules():
        yield


@pytest.mark.parametrize("new", [True, False])
def test_mmengines_history_buffers_are_left_out(new: bool, tmp_path: Path, mmengine: None) -> None:
    scalars = {"train/loss": HistoryBuffer([0.5] * 100_000), "train/lr": HistoryBuffer([1.0, 2.0])}
    meta = {"iter": 4, "dataset_meta": {"classes": ("a", "b", "c"), "palette": [[1, 2, 3]] * 3}}
    contents = {
        "meta": meta,
        "state_dict": NETWORK,
        "message_hub": {"log_scalars": scalars, "runtime_info": {"iter": 4}},
    }
    torch.save(contents, tmp_path / "iter_4.pth", _use_new_zipfile_serialization=new)
    assert b"getattr" in (tmp_path / "iter_4.pth").read_bytes()
    for name in [name for name in sys.modules if name.startswith("mmengine")]:
        sys.modules[name] = types.ModuleType(name)  # reading needs no class of it
    found = read_checkpoint(tmp_path / "iter_4.pth")
    assert found.kind == "plain"
    assert found.state.keys() == NETWORK.keys()
    assert found.meta["CLASSES"] == ("a", "b", "c")


def test_arguments_and_paths_of_a_script_are_left_out(tmp_path: Path) -> None:
    arguments = argparse.Namespace(lr=0.1, out=pathlib.Path("runs/a"))
    torch.save({"model": NETWORK, "args": arguments, "dir": pathlib.Path("x/y")}, tmp_path / "deit.pth")
    assert read_checkpoint(tmp_path / "deit.pth").state.keys() == NETWORK.keys()


def test_what_is_left_out_opens_no_other_door(tmp_path: Path) -> None:
    """`getattr` is read for mmengine's buffers only, and paths of texts only; nothing is called for them."""
    traps = [
        (getattr, (argparse.Namespace, "__init__")),
        (getattr, (OrderedDict, "fromkeys")),
        (pathlib.PosixPath, (3,)),
    ]
    for number, trap in enumerate(traps):

        class Trap:
            def __reduce__(self, trap: Any = trap) -> Any:
                return trap

        torch.save({"state_dict": NETWORK, "meta": Trap()}, tmp_path / f"{number}.pth")
        with pytest.raises(RmrkdError, match="more than tensors"):
            read_checkpoint(tmp_path / f"{number}.pth")


def _torchscript(path: Path) -> None:
    torch.jit.trace(nn.Conv2d(3, 4, 1), torch.zeros(1, 3, 8, 8)).save(str(path))


def _zip(*names: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, b"x")

    return write


def _bytes(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _safetensors(path: Path) -> None:
    from safetensors.torch import save_file

    save_file({"decode_head.conv_seg.weight": torch.ones(1)}, path)


FORMATS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "student.onnx": (_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0:\x00"), ("an ONNX file", "onnxruntime")),
    "onnx.pth": (_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x052.1.0:\x00"), ("an ONNX file", "onnxruntime")),
    "student.ts.pt": (_torchscript, ("a TorchScript program", "torch.jit.load")),
    "network.pth": (
        lambda path: torch.save(nn.Conv2d(1, 1, 1), path),
        ("a whole pickled network", "model.state_dict()"),
    ),
    "old.pth": (
        lambda path: torch.save(nn.Conv2d(1, 1, 1), path, _use_new_zipfile_serialization=False),
        ("a whole pickled network", "model.state_dict()"),
    ),
    "model.h5": (_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)), ("HDF5", "Keras")),
    "model.keras": (_zip("config.json", "model.weights.h5"), ("a Keras file",)),
    "named.pth": (_safetensors, ("a safetensors file under another name", "rename it")),
    "program.pt2": (_zip("archive/models/model.json"), ("torch.export",)),
    "arrays.npz": (_zip("a.npy", "b.npy"), ("NumPy",)),
    "packed.zip": (_zip("best/student.pth"), ("a zip archive", "student.pth")),
    "pointer.pth": (_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n"), ("Git LFS", "git lfs pull")),
    "page.pth": (_bytes(b"<!doctype html><html></html>"), ("HTML", "download")),
    "weights.pkl": (_bytes(pickle.dumps({"a": np.ones(2)}, protocol=4)), ("a Python pickle", "torch.save")),
    "weights.tar.gz": (_bytes(b"\x1f\x8b\x08" + bytes(30)), ("gzip", "unpack")),
    "model.tflite": (_bytes(b"\x1c\0\0\0TFL3" + bytes(30)), ("TensorFlow Lite",)),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_no_checkpoint_is_named(name: str, tmp_path: Path) -> None:
    write, landmarks = FORMATS[name]
    write(tmp_path / name)
    with pytest.raises(RmrkdError) as failure:
        read_checkpoint(tmp_path / name)
    text = f"{failure.value.message} {failure.value.hint}"
    assert [part for part in (name, *landmarks) if part not in text] == []


def test_a_file_of_torch_under_the_name_of_safetensors_is_named(tmp_path: Path) -> None:
    torch.save({"state_dict": NETWORK}, tmp_path / "x.safetensors")
    with pytest.raises(RmrkdError, match=r"torch\.save writes") as failure:
        read_checkpoint(tmp_path / "x.safetensors")
    assert ".pth" in failure.value.hint


@pytest.mark.parametrize(
    ("names", "landmark"),
    [
        (("backbone.conv1.weight", "classifier.4.weight", "aux_classifier.4.bias"), "torchvision"),
        (
            ("encoder.conv1.weight", "decoder.blocks.0.weight", "segmentation_head.0.weight"),
            "segmentation_models_pytorch",
        ),
        (("segformer.encoder.block.0.weight", "decode_head.classifier.weight"), "Hugging Face"),
        (("backbone.conv1.weight", "backbone.layer1.weight"), "backbone without a decode head"),
        (("conv1.weight", "layer1.0.weight", "layer4.0.weight", "fc.weight"), "ResNet backbone"),
        (("backbone.conv1.weight", "head.fc.weight"), "MMPretrain"),
        (
            ("decode_head.0.conv_seg.weight", "decode_head.1.conv_seg.weight", "backbone.x.weight"),
            "several decode heads",
        ),
        (("foo.weight", "bar.weight"), "`bar.`, `foo.`"),
    ],
)
def test_another_librarys_network_is_named(names: tuple[str, ...], landmark: str, tmp_path: Path) -> None:
    assert landmark in describe_network(names)
    torch.save({"state_dict": {name: torch.ones(1) for name in names}}, tmp_path / "x.pth")
    for command in (
        ("eval", tmp_path / "x.pth", "--dataset", "demo"),
        ("transfer", tmp_path / "x.pth", tmp_path / "y.pth"),
    ):
        if command[0] == "eval" and "torchvision" not in landmark:
            continue  # `eval` takes a second
        outcome = rmrkd(*command)
        assert outcome.exit_code == 2
        assert landmark in outcome.message
        assert "EncoderDecoder" in outcome.hint
