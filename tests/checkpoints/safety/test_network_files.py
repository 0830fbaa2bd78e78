"""ONNX and TorchScript files of strangers: what asks for code, or for other files, is refused before it is loaded."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from rmrkd_cli.checkpoints.safety.onnx_file import read_onnx_file
from rmrkd_cli.checkpoints.safety.placeholders import MalformedFileError, UnsafeFileError
from rmrkd_cli.checkpoints.safety.torchscript_file import read_torchscript_file
from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.file_network import FileNetwork
from rmrkd_cli.networks.onnx_runner import OnnxRunner
from rmrkd_cli.networks.torchscript_runner import TorchScriptRunner
from tests.helpers.network_files import Tiny, write_onnx, write_torchscript

EXTERNAL = {"save_as_external_data": True, "location": "weights.bin", "size_threshold": 0}


# ONNX


def test_a_custom_operator_is_named(tmp_path: Path) -> None:
    node = helper.make_node("Evil", ["logits"], ["out"], domain="com.stranger")
    path = write_onnx(tmp_path / "c.onnx", after=[node], output=("out", TensorProto.FLOAT, ("n2", 4, "h2", "w2")))
    with pytest.raises(UnsafeFileError, match=r"the custom operator `com.stranger.Evil`"):
        read_onnx_file(path)
    with pytest.raises(RmrkdError, match=r"c\.onnx` was not loaded: it uses the custom operator"):
        OnnxRunner(path)


def test_a_custom_operator_inside_a_branch_or_a_function_is_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "i.onnx")
    plain = onnx.load(path)
    node = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft")
    inner = helper.make_graph([node], "inner", [], [])
    branch = onnx.ModelProto.FromString(plain.SerializeToString())
    branch.graph.node.append(helper.make_node("If", ["c"], ["z"], then_branch=inner, else_branch=inner))
    function = onnx.ModelProto.FromString(plain.SerializeToString())
    function.functions.append(
        helper.make_function("own", "Block", ["x"], ["y"], [node], [helper.make_opsetid("com.microsoft", 1)])
    )
    for model in (branch, function):
        onnx.save(model, path)
        with pytest.raises(UnsafeFileError, match=r"`com.microsoft.EPContext`"):
            read_onnx_file(path)


def test_functions_of_the_file_and_operators_of_onnxruntime_are_read(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "f.onnx")
    model = onnx.load(path)
    node = helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")
    model.functions.append(
        helper.make_function("own", "Block", ["x"], ["y"], [node], [helper.make_opsetid("com.microsoft", 1)])
    )
    model.graph.node.append(helper.make_node("Block", ["logits"], ["unused"], domain="own"))
    onnx.save(model, path)
    assert read_onnx_file(path).graph.name == "tiny"


def test_weights_beside_the_file_are_read(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "e.onnx", save=EXTERNAL)
    images = torch.ones(1, 3, 4, 4)
    assert torch.equal(OnnxRunner(path).run(images), OnnxRunner(write_onnx(tmp_path / "i.onnx")).run(images))


def set_location(path: Path, location: str) -> None:
    model = onnx.load(path, load_external_data=False)
    model.graph.initializer[0].external_data[0].value = location
    onnx.save(model, path)


@pytest.mark.parametrize("location", ["/etc/passwd", "../weights.bin", "a/../../weights.bin", "C:\\x", "~/x", ""])
def test_weights_outside_the_folder_are_refused(tmp_path: Path, location: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "weights.bin").write_bytes(b"\0" * 4096)
    path = write_onnx(tmp_path / "in" / "e.onnx", save=EXTERNAL)
    set_location(path, location)
    with pytest.raises(UnsafeFileError, match="which is outside its folder"):
        read_onnx_file(path)


@pytest.mark.parametrize("inside", ["weights.bin", "link/weights.bin"])
def test_weights_behind_a_symbolic_link_are_refused(tmp_path: Path, inside: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "weights.bin").write_bytes(b"\0" * 4096)
    path = write_onnx(tmp_path / "in" / "e.onnx", save=EXTERNAL)
    (tmp_path / "in" / "weights.bin").unlink()
    (tmp_path / "in" / "weights.bin").symlink_to(tmp_path / "out" / "weights.bin")
    (tmp_path / "in" / "link").symlink_to(tmp_path / "out")
    set_location(path, inside)
    with pytest.raises(UnsafeFileError, match="which is a symbolic link"):
        read_onnx_file(path)


def test_missing_and_incomplete_weights_are_named(tmp_path: Path) -> None:
    path, weights = write_onnx(tmp_path / "e.onnx", save=EXTERNAL), tmp_path / "weights.bin"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(
        MalformedFileError, match=r"`weights.bin` is incomplete: it has 47 bytes, and `kernel` ends at 48"
    ):
        read_onnx_file(path)
    weights.unlink()
    with pytest.raises(RmrkdError, match=r"e.onnx` cannot be read: its weights file `weights.bin` is missing"):
        OnnxRunner(path)


@pytest.mark.parametrize("contents", [b"", b"not a network", b"\x08\x09", b"PK\x03\x04" + b"\0" * 60])
def test_files_that_are_no_onnx_are_named(tmp_path: Path, contents: bytes) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(contents)
    with pytest.raises(RmrkdError, match=r"x.onnx` cannot be read: it is damaged or not an ONNX file"):
        OnnxRunner(path)


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "x.onnx")
    whole = path.read_bytes()
    for length in range(len(whole) // 8, len(whole), len(whole) // 8):
        path.write_bytes(whole[:length])
        with pytest.raises(RmrkdError, match=r"x.onnx` (cannot be read|was not loaded)|cannot load|no segmentation"):
            OnnxRunner(path)


def test_a_file_that_asks_for_terabytes_is_named(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["shape"], value=numpy_helper.from_array(np.array([1 << 20] * 2), "v")),
        helper.make_node("ConstantOfShape", ["shape"], ["huge"]),
        helper.make_node("ReduceSum", ["huge"], ["sum"]),
        helper.make_node("Add", ["logits", "sum"], ["out"]),
    ]
    path = write_onnx(tmp_path / "b.onnx", after=nodes, output=("out", TensorProto.FLOAT, ("n2", 4, "h2", "w2")))
    with pytest.raises(RmrkdError, match="cannot process images"):
        FileNetwork(OnnxRunner(path))


# TorchScript


def rewrite(path: Path, change: Callable[[str, bytes], bytes | None], added: dict[str, bytes] | None = None) -> Path:
    """Write an archive again with other contents, as torch would: uncompressed but for its program."""
    with zipfile.ZipFile(path) as archive:
        entries = [(entry, archive.read(entry)) for entry in archive.infolist()]
    root = entries[0][0].filename.split("/")[0]
    with zipfile.ZipFile(path, "w") as archive:
        for entry, contents in entries:
            new = change(entry.filename.removeprefix(f"{root}/"), contents)
            if new is not None:
                archive.writestr(entry.filename, new, entry.compress_type)
        for name, contents in (added or {}).items():
            archive.writestr(f"{root}/{name}", contents)
    return path


def program(path: Path, lines: str) -> Path:
    """Add lines to `forward` in a TorchScript file."""

    def change(name: str, contents: bytes) -> bytes | None:
        if name.endswith(".debug_pkl"):  # torch aborts where it does not fit the program
            return None
        own = b"    conv = self.conv\n"
        return contents.replace(own, own + lines.encode() + b"\n") if name.startswith("code/") else contents

    return rewrite(path, change)


# Lines of programs that do more than compute, and the name in the message.
PROGRAMS = [
    ("    torch.save(image, 'stolen')", "`save`"),
    ('    x = torch.from_file("secret", False, 4)', "`from_file`"),
    ('    a = torch\n    a.save(image, "stolen")', "`save`"),
    ("    torch.manual_seed(1)", "`manual_seed`"),
    ("    print(image)", "`print`"),
    ("    x = torch.set_(image, image)", "`set_`"),
    ("    x = torch._reshape_alias(image, [9, 9], [9, 1])", "`_reshape_alias`"),
]


@pytest.mark.parametrize(("lines", "name"), PROGRAMS)
def test_a_program_that_does_more_than_compute_is_refused(tmp_path: Path, lines: str, name: str) -> None:
    path = program(write_torchscript(tmp_path / "p.pt"), lines.replace("'", '"'))
    with pytest.raises(UnsafeFileError, match=f"it uses {name}, which is not on the list of operators"):
        read_torchscript_file(path)
    with pytest.raises(RmrkdError, match=r"p\.pt` was not loaded"):
        TorchScriptRunner(path)


@pytest.mark.filterwarnings("ignore")
def test_torch_would_have_run_it(tmp_path: Path) -> None:
    """Without the check, the file of a stranger writes where it likes."""
    stolen = tmp_path / "stolen"
    path = program(write_torchscript(tmp_path / "p.pt"), f'    torch.save(image, "{stolen}")')
    torch.jit.load(str(path))(torch.zeros(1, 3, 2, 2))
    assert stolen.is_file()


# Lines that torch never writes, in which a name could hide, and the message.
HIDDEN = [
    ('    getattr(torch, "save")(image, "x")', "`save`"),
    ('    getattr(torch, "sa" "ve")(image, "x")', "`getattr`"),
    ('    getattr(torch, "\\163ave")(image, "x")', "`getattr`"),
    ("    x = 1e5\n    # torch.save\n", "contains `#`"),
    ("    x = 'torch.save'", "contains `'`"),
    ('    x = """a"""', 'contains `"`'),
    ("    x = 2from_file", "`from_file`"),
    ("    ops.stranger.run(image)", "the operator `stranger.run` of another library"),
    ("    a = ops\n    a.stranger.run(image)", "the operator `ops` of another library"),
    ("    x = __torch__.torch.classes.stranger.Thing()", "a class of another library"),
    ("    x = ^Run()(image)", "the Python function `Run`"),
    ("    x = fork(image)", "`fork`"),
    ("    x = ops.prim.rpc_sync(image)", "`rpc_sync`"),
]


@pytest.mark.parametrize(("lines", "message"), HIDDEN)
def test_names_cannot_be_hidden(tmp_path: Path, lines: str, message: str) -> None:
    path = program(write_torchscript(tmp_path / "h.pt"), lines)
    with pytest.raises((UnsafeFileError, MalformedFileError), match=message.replace("(", r"\(")):
        read_torchscript_file(path)


class Numbered(nn.Module):
    """Attributes that are numbers are written with `getattr`; texts may contain any word."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sequential(nn.ReLU(), nn.Dropout(0.5)))

    def forward(self, image: Tensor) -> Tensor:
        if image.dim() != 4:
            raise ValueError('save 2D images with ops.stranger, fork\'s "set"')
        return self.layers(image)


@pytest.mark.filterwarnings("ignore")
def test_programs_of_ordinary_networks_are_read(tmp_path: Path) -> None:
    path = write_torchscript(tmp_path / "n.pt", Numbered())
    images = torch.randn(1, 3, 8, 8)
    expected = torch.jit.load(str(path)).eval()(images)
    assert torch.equal(TorchScriptRunner(path).run(images), expected)
    torch.jit.save(torch.jit.trace(Numbered().eval(), images), str(path))
    read_torchscript_file(path)
    torch.jit.save(torch.jit.freeze(torch.jit.script(Numbered().eval())), str(path))
    read_torchscript_file(path)


class Reduce:
    def __reduce__(self) -> tuple[object, ...]:
        return print, ("run",)


def test_pickles_with_calls_are_refused(tmp_path: Path) -> None:
    stolen = pickle.dumps(Reduce(), protocol=2)
    path = rewrite(write_torchscript(tmp_path / "p.pt"), lambda name, old: stolen if name == "data.pkl" else old)
    with pytest.raises(UnsafeFileError, match=r"it names `(__builtin__|builtins).print`"):
        read_torchscript_file(path)


def test_tensors_are_not_larger_than_their_storage(tmp_path: Path) -> None:
    """torch would read beyond the end of the file's tensor."""

    def enlarge(name: str, contents: bytes) -> bytes:  # the shape (4, 3, 1, 1)
        return (
            contents.replace(b"(K\x04K\x03K\x01K\x01t", b"(K\x04K\x63K\x01K\x01t") if name == "data.pkl" else contents
        )

    path = rewrite(write_torchscript(tmp_path / "t.pt"), enlarge)
    with pytest.raises(UnsafeFileError, match="is larger than its storage of 12 elements"):
        read_torchscript_file(path)
    cut = rewrite(write_torchscript(tmp_path / "c.pt"), lambda name, old: old[:-4] if name == "data/0" else old)
    with pytest.raises(UnsafeFileError, match="claims 48 bytes and has 44"):
        read_torchscript_file(cut)


@pytest.mark.parametrize("name", ["model.json", "code/../../x.py", "other.pkl"])
def test_entries_that_torch_does_not_write_are_refused(tmp_path: Path, name: str) -> None:
    path = rewrite(write_torchscript(tmp_path / "e.pt"), lambda _, old: old, {name: b"{}"})
    with pytest.raises(UnsafeFileError, match="it is an archive with"):
        read_torchscript_file(path)


def test_files_that_are_no_torchscript_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2)}, buffer)
    whole = write_torchscript(tmp_path / "w.pt").read_bytes()
    legacy = io.BytesIO()
    torch.save(Tiny(), legacy, _use_new_zipfile_serialization=False)
    for contents in (b"", b"text", buffer.getvalue(), legacy.getvalue(), whole[:-30], whole[: len(whole) // 2]):
        path.write_bytes(contents)
        with pytest.raises(RmrkdError, match=r"x.pt` cannot be read: it (is no TorchScript|is damaged|s archive)"):
            TorchScriptRunner(path)
