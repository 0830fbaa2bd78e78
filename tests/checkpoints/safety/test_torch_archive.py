"""What torch.save writes passes; what asks for more than the file holds does not; and nothing raises otherwise."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rmrkd_cli.checkpoints.file_formats import network_file_format
from rmrkd_cli.checkpoints.reader import read_checkpoint
from rmrkd_cli.checkpoints.safety.pickle_scan import PickleScan
from rmrkd_cli.checkpoints.safety.placeholders import (
    CALLS,
    STORAGE_CLASSES,
    MalformedFileError,
    Storage,
    UnsafeFileError,
)
from rmrkd_cli.checkpoints.safety.plain_data import MAX_DEPTH, find_unsafe_data
from rmrkd_cli.checkpoints.safety.torch_archive import check_torch_file, directory_bytes
from rmrkd_cli.checkpoints.safety.torchscript_file import read_torchscript_file
from rmrkd_cli.errors import RmrkdError
from tests.checkpoints.hostile import programs as p
from tests.checkpoints.hostile.files import directory_of_a_million_entries

SCALARS = (
    st.none() | st.booleans() | st.integers(-(2**100), 2**100) | st.floats() | st.text(max_size=300)
    | st.sampled_from([kind(1) for kind in (np.float64, np.float32, np.float16, np.int64, np.int8, np.bool_, np.uint8)])
)  # fmt: skip
KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
TENSORS = st.builds(
    lambda shape, kind, reverse: torch.ones(shape).to(kind).permute(tuple(range(len(shape)))[:: 1 - 2 * reverse]),
    st.lists(st.integers(0, 5), max_size=4).map(tuple), st.sampled_from(KINDS), st.booleans(),
)  # fmt: skip
CONTENTS = st.recursive(
    SCALARS | TENSORS,
    lambda inner: st.lists(inner, max_size=5) | st.lists(inner, max_size=4).map(tuple)
    | st.dictionaries(st.text(max_size=9) | st.integers(), inner, max_size=5),
    max_leaves=20,
)  # fmt: skip


def follow(program: bytes) -> PickleScan:
    return PickleScan(io.BytesIO(program))


@settings(max_examples=150, deadline=None)
@given(contents=CONTENTS, new=st.booleans())
def test_any_plain_data_that_torch_writes_is_accepted(contents: Any, new: bool, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "any.pth"
    torch.save(
        {"state_dict": {"x": torch.ones(1)}, "meta": {"any": contents}}, path, _use_new_zipfile_serialization=new
    )
    check_torch_file(path)
    assert "any" in read_checkpoint(path).meta


@pytest.mark.parametrize("new", [True, False])
def test_contents_of_openmmlabs_files_are_accepted(new: bool, tmp_path: Path) -> None:
    """A state dict with `_metadata`, parameters, an optimizer with momentum, NumPy numbers in `meta`, tied weights."""
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    network(torch.ones(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    state = network.state_dict()
    state["tied"] = state["0.weight"]
    contents = {
        "meta": {"hook_msgs": {"best_score": np.float64(0.7), "last": np.int64(3)}, "CLASSES": ("a", "b"),
                 "PALETTE": np.arange(6).reshape(2, 3)},
        "state_dict": state, "optimizer": optimizer.state_dict(), "parameter": torch.nn.Parameter(torch.ones(2)),
    }  # fmt: skip
    torch.save(contents, tmp_path / "x.pth", _use_new_zipfile_serialization=new)
    read = read_checkpoint(tmp_path / "x.pth")
    assert read.state.keys() == state.keys()
    assert all(torch.equal(read.state[key], state[key]) for key in state)
    assert read.meta["hook_msgs"] == {"best_score": 0.7, "last": 3}
    assert read.meta["PALETTE"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert torch.equal(read.rest["optimizer"]["state"][0]["momentum_buffer"], network[0].weight.grad)


@settings(max_examples=300, deadline=None)
@given(data=st.data(), new=st.booleans())
def test_a_changed_file_is_read_or_rejected(data: st.DataObject, new: bool, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "changed.pth"
    torch.save(
        {"state_dict": {"x": torch.ones(2, 3)}, "meta": {"n": 3, "t": "text"}}, path, _use_new_zipfile_serialization=new
    )
    whole = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(whole)
    try:
        read_checkpoint(path)
    except RmrkdError:
        return


@settings(max_examples=300, deadline=None)
@given(program=st.binary(max_size=60))
def test_random_bytes_raise_no_other_error(program: bytes) -> None:
    try:
        follow(program)
    except (UnsafeFileError, MalformedFileError):
        return


def test_storages_and_tensors_are_counted_in_bytes() -> None:
    made = follow(
        p.checkpoint(a=p.tensor(p.storage(6, "k"), (2, 3), (3, 1)), b=p.tensor(p.storage(6, "k"), (2,), (1,), 4))
    )
    assert made.storages == {"k": Storage("k", 6, 4)}
    assert [tensor.size for tensor in made.tensors] == [24, 8]


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (p.tensor(p.storage(6), (2, 3), (3, 1), 1), "larger than its storage of 6 elements"),
        (p.tensor(p.storage(6), (7,), (0,)), "larger than its storage of 6 elements"),
        (p.tensor(p.storage(6), (2, 3), (1,)), "no valid shape"),
        (p.tensor(p.storage(6), (-2,), (1,)), "no valid shape"),
        (p.tensor(b"N", (2,), (1,)), "without a storage"),
        (p.tensor(p.storage(6, kind="UntypedStorage"), (2,), (1,)), "torch.UntypedStorage"),
        (p.group(p.storage(6), p.storage(7)), "two sizes"),
        (p.call(p.name("collections", "Counter"), p.text("abc")), "collections.Counter"),
        (p.call(p.text("collections.OrderedDict")), "calls"),
        (p.call(p.name("_codecs", "encode"), p.text("x" * (1 << 21)), p.text("latin1")), "NumPy numbers take"),
        (p.call(p.name("numpy", "dtype"), p.text("O8"), b"\x89", b"\x88"), "NumPy type"),
        (p.call(p.name("collections", "OrderedDict")) + p.mapping(items=b"N") + b"b", "sets the state"),
        (b"N" + b"Na", "appends to a NoneType"), (b"}" + p.MARK + b"]Nu", "a list as key"),
    ],
)  # fmt: skip
def test_unsafe_steps_are_named(program: bytes, why: str) -> None:
    with pytest.raises((UnsafeFileError, MalformedFileError), match=why):
        follow(p.PROTO + program + p.STOP)


def test_allowed_names_are_torchs_or_numpys() -> None:
    """Every name is one of torch's own harmless ones, or makes a NumPy number."""
    from torch._weights_only_unpickler import _get_allowed_globals

    numbers = {f"numpy.{core}.multiarray.{name}" for core in ("core", "_core") for name in ("scalar", "_reconstruct")}
    numbers |= {"numpy.dtype"}
    assert {*CALLS, *STORAGE_CLASSES} - numbers <= set(_get_allowed_globals())
    assert len(CALLS) == 9


def test_plain_data_is_bounded() -> None:
    nested: Any = []
    for _ in range(MAX_DEPTH + 1):
        nested = [nested]
    assert find_unsafe_data({"a": [1, "b", None, 2.5, (True,)], "t": torch.ones(1), "n": np.float64(1)}) == ""
    assert "nested more than" in find_unsafe_data(nested)
    assert "a set" in find_unsafe_data([{1}])
    assert "bits" in find_unsafe_data({"n": 1 << 200})
    assert "values" in find_unsafe_data([[0] * 2000] * 2000)


@pytest.mark.parametrize(("entries", "comment"), [(1, b""), (300, b"PK\x05"), (0, b"x" * 0xFFFF), (70_000, b"")])
def test_the_size_of_a_directory_is_read_without_reading_it(tmp_path: Path, entries: int, comment: bytes) -> None:
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.comment = comment
        for number in range(entries):
            archive.writestr(f"{number}", b"")
    with path.open("rb") as stream:
        found = directory_bytes(stream)
    with zipfile.ZipFile(path) as archive:
        expected = sum(46 + len(entry.filename) + len(entry.extra) for entry in archive.infolist())
    assert found == expected


def test_a_file_without_a_directory_has_none(tmp_path: Path) -> None:
    for contents in (b"", b"PK\x05\x06", b"x" * 100_000):
        (tmp_path / "x").write_bytes(contents)
        with (tmp_path / "x").open("rb") as stream:
            assert directory_bytes(stream) == 0


def test_a_large_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever asks what a file is: its format, the reader of checkpoints, the reader of TorchScript."""
    directory_of_a_million_entries(tmp_path / "x.pth")
    monkeypatch.setattr(zipfile, "ZipFile", lambda *_, **__: pytest.fail("the directory was read"))
    assert network_file_format(tmp_path / "x.pth") is None
    with pytest.raises(RmrkdError, match="65,535 entries"):
        read_checkpoint(tmp_path / "x.pth")
    with pytest.raises(MalformedFileError, match=r"directory of 5\d,\d{3},\d{3} bytes"):
        read_torchscript_file(tmp_path / "x.pth")
