"""Checkpoints that nobody should open. Whatever in them could run would leave a file named `ran` behind."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.checkpoints.hostile import programs as p

TOUCH = "touch ran"
Maker = Callable[[Path], None]
HEAD = {"student.decode_head.conv_seg.weight": torch.ones(4)}
FILES: dict[str, Maker] = {}


def file(maker: Maker) -> Maker:
    FILES[maker.__name__] = maker
    return maker


class Gadget:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


def saved(contents: Any) -> Maker:
    return lambda path: torch.save({"state_dict": HEAD, "meta": contents}, path)


FILES |= {
    "os_system": saved(Gadget(os.system, TOUCH)),
    "builtins_eval": saved(Gadget(eval, f"__import__('os').system('{TOUCH}')")),
    "builtins_exec": saved(Gadget(exec, f"import os; os.system('{TOUCH}')")),
    "subprocess_popen": saved({"deep": [Gadget(subprocess.Popen, TOUCH.split())]}),
    "builtins_getattr": saved(Gadget(getattr, Gadget(__import__, "os"), "system")),
    "open_for_writing": saved(Gadget(open, "ran", "w")),
    "numpy_objects": saved(np.array([Gadget(os.system, TOUCH)], dtype=object)),
    "whole_module": lambda path: torch.save(torch.nn.Linear(2, 2), path),
    "config_that_calls": saved({"config": f"model = __import__('os').system('{TOUCH}')"}),
    "config_that_imports": saved({"config": f"import os\nos.system('{TOUCH}')\nmodel = dict()"}),
    "config_that_comprehends": saved({"config": "model = [x for x in range(10 ** 9)]"}),
    "config_nested": saved({"config": "model = " + "[" * 100_000}),
    "config_of_minus_signs": saved({"config": "model = " + "-" * 100_000 + "1"}),
    "config_of_sums": saved({"config": "model = " + "1+" * 100_000 + "1"}),
}


@file
def raw_pickle(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Gadget(os.system, TOUCH)}, protocol=2))


@file
def raw_pickle_of_protocol_0(path: Path) -> None:
    path.write_bytes(f"(S'{TOUCH}'\nios\nsystem\n.".encode())


@file
def raw_pickle_of_protocol_4(path: Path) -> None:
    path.write_bytes(pickle.dumps({"state_dict": Gadget(os.system, TOUCH)}, protocol=4))


@file
def old_form_with_a_gadget(path: Path) -> None:
    torch.save({"state_dict": HEAD, "meta": Gadget(os.system, TOUCH)}, path, _use_new_zipfile_serialization=False)


@file
def old_form_with_a_gadget_before_the_contents(path: Path) -> None:
    p.stream(path, p.student(), system=p.call(p.name("os", "system"), p.text(TOUCH)))


@file
def storage_loaded_from_bytes(path: Path) -> None:
    """`torch.storage._load_from_bytes` is torch.load without any guard."""
    inner = io.BytesIO()
    torch.save(Gadget(os.system, TOUCH), inner)
    storage = p.call(p.name("_codecs", "encode"), p.text(inner.getvalue().decode("latin1")), p.text("latin1"))
    p.archive(path, p.student(meta=p.call(p.name("torch.storage", "_load_from_bytes"), storage)))


@file
def gadget_as_the_kind_of_a_storage(path: Path) -> None:
    storage = p.group(p.text("storage"), p.name("os", "system"), p.text("0"), p.text(TOUCH), p.number(4))
    p.archive(path, p.checkpoint(state_dict=p.mapping(x=p.tensor(storage + b"Q", (4,), (1,)))))


@file
def outside_reference(path: Path) -> None:
    p.archive(path, p.student(meta=p.group(p.text("module"), p.text("os")) + b"Q"))


@file
def archive_in_an_archive(path: Path) -> None:
    inner = path.with_suffix(".inner")
    FILES["os_system"](inner)
    p.archive(path, p.student(meta=b"}"), {"0": bytes(16), "1": inner.read_bytes(), "../2": b""})
    inner.unlink()


@file
def zip_bomb(path: Path) -> None:
    """4 GiB of zeros in 4 MB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", p.checkpoint(state_dict=p.mapping(x=p.tensor(p.storage(1 << 30), (1,), (1,)))))
        packer, info = zlib.compressobj(9, zlib.DEFLATED, -15), zipfile.ZipInfo("x/data/0")
        block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
        offset = archive.fp.tell()  # type: ignore[union-attr]
        info.compress_type = zipfile.ZIP_STORED
        archive.writestr(info, block * 4095 + packer.compress(bytes(1 << 20)) + packer.flush())
        info.compress_type, info.file_size, info.header_offset = zipfile.ZIP_DEFLATED, 0xFFFFFFFE, offset


@file
def zip_bomb_of_the_program(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x/data.pkl", p.PROTO + b"N0" * (1 << 26) + b"N" + p.STOP)


@file
def entries_on_top_of_each_other(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        keys = [str(key) for key in range(1000)]
        archive.writestr("x/data.pkl", p.checkpoint(state_dict=p.mapping(**{
            key: p.tensor(p.storage(1 << 20, key), (1 << 20,), (1,)) for key in keys
        })))  # fmt: skip
        archive.writestr("x/data/0", bytes(4 << 20))
        first = archive.getinfo("x/data/0")
        for key in keys[1:]:
            copy = zipfile.ZipInfo(f"x/data/{key}")
            copy.file_size = copy.compress_size = first.file_size
            copy.CRC, copy.header_offset = first.CRC, first.header_offset
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy


@file
def path_traversal(path: Path) -> None:
    p.archive(path, p.student(), {"0": bytes(16), "../../../ran": b"ran"})


@file
def absolute_path(path: Path) -> None:
    p.archive(path, p.student(), root=str(path.parent.resolve() / "ran"))


@file
def a_name_twice(path: Path) -> None:
    import warnings

    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for program in (p.student(), p.student(meta=p.call(p.name("os", "system"), p.text(TOUCH)))):
            archive.writestr("x/data.pkl", program)
        archive.writestr("x/data/0", bytes(16))


@file
def two_ends(path: Path) -> None:
    """An archive in the comment of another: one reader may open the first, another the second."""
    p.archive(path, p.student())
    data = path.read_bytes()
    FILES["os_system"](path)
    path.write_bytes(path.read_bytes()[:-2] + len(data).to_bytes(2, "little") + data)


@file
def a_name_in_another_case(path: Path) -> None:
    """torch's reader does not mind the case, and takes either."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", p.student())
        archive.writestr("x/DATA.PKL", p.student(meta=p.call(p.name("builtins", "bytearray"), p.number(3 << 30))))
        archive.writestr("x/data/0", bytes(16))


@file
def directory_that_is_not_before_the_end(path: Path) -> None:
    """Python looks for the directory before the end, torch where the end says that it is."""
    p.archive(path, p.student())
    data = path.read_bytes()
    count, length, offset = struct.unpack_from("<HLL", data, len(data) - 12)
    directory = data[offset : offset + length]
    end = data[-22:-6] + struct.pack("<LH", offset, 0)
    path.write_bytes(data[: offset + length] + directory + end)
    assert count == 4


@file
def directory_of_a_million_entries(path: Path) -> None:
    p.archive(path, p.student())
    data = path.read_bytes()
    _, length, offset = struct.unpack_from("<HLL", data, len(data) - 12)
    directory = data[offset : offset + length] * 250_000
    end = data[-22:-14] + struct.pack("<HHLLH", 0xFFFF, 0xFFFF, len(directory), offset, 0)
    path.write_bytes(data[:offset] + directory + end)


@file
def storage_of_terabytes(path: Path) -> None:
    p.archive(path, p.checkpoint(state_dict=p.mapping(x=p.tensor(p.storage(1 << 40), (1 << 40,), (1,)))))


@file
def storage_of_gigabytes_in_the_old_form(path: Path) -> None:
    tensor = p.tensor(p.storage(3 << 30, old=True), (3 << 30,), (1,))
    p.stream(
        path, p.checkpoint(state_dict=p.mapping(x=tensor)), p.group(p.text("0")).replace(b"(", b"](", 1)[:-1] + b"e"
    )


@file
def tensor_beyond_its_storage(path: Path) -> None:
    tensor = p.tensor(p.storage(4), (1 << 20,), (1,), offset=1 << 30)
    p.archive(path, p.checkpoint(state_dict=p.mapping(**{"student.x": tensor})))


@file
def tensor_that_repeats_one_element(path: Path) -> None:
    tensor = p.tensor(p.storage(4), (1 << 16, 1 << 16), (0, 0))
    p.archive(path, p.checkpoint(state_dict=p.mapping(**{"student.x": tensor})))


@file
def tensors_on_one_storage(path: Path) -> None:
    tensors = {f"student.{number}": p.tensor(p.storage(1 << 20), (1 << 20,), (1,)) for number in range(5000)}
    p.archive(path, p.checkpoint(state_dict=p.mapping(**tensors)), {"0": bytes(4 << 20)})


@file
def bytearray_of_gigabytes(path: Path) -> None:
    p.archive(path, p.student(meta=p.call(p.name("builtins", "bytearray"), p.number(8 << 30))))


@file
def tensor_made_by_its_class(path: Path) -> None:
    p.archive(path, p.student(meta=p.call(p.name("torch", "Tensor"), p.number(8 << 30))))


@file
def text_encoded_often(path: Path) -> None:
    once = p.call(p.name("_codecs", "encode"), b"h\x00", p.text("latin1"))
    p.archive(path, p.PROTO + p.text("x" * (8 << 20)) + b"q\x00" + b"0]" + p.MARK + once * 1000 + b"e" + p.STOP)


def doubled(times: int) -> bytes:
    """A tuple of two of a tuple of two …: a few bytes each, and endless when it is hashed or printed."""
    steps = (b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1]) for n in range(times))
    return b")q\x00" + b"".join(steps)


@file
def key_that_is_hashed_for_ever(path: Path) -> None:
    p.archive(path, p.PROTO + doubled(60) + b"}h\x3cNs" + p.STOP)


@file
def argument_that_is_printed_for_ever(path: Path) -> None:
    p.archive(path, p.PROTO + doubled(60) + p.name("numpy", "dtype") + b"h\x3cR" + p.STOP)


@file
def tensor_of_endless_dimensions(path: Path) -> None:
    sizes = p.number(2**1000) + b"q\x00" + b"h\x00" * 60_000
    tensor = p.call(
        p.name("torch._utils", "_rebuild_tensor_v2"), p.storage(4), p.number(0), p.group(sizes), b")", b"\x89", b"N"
    )
    p.archive(path, p.checkpoint(state_dict=p.mapping(x=tensor)))


@file
def memo_of_gigabytes(path: Path) -> None:
    p.archive(path, p.PROTO + b"Nr\xfe\xff\xff\xff" + p.STOP)


@file
def state_dict_that_hides_its_methods(path: Path) -> None:
    state = p.call(p.name("collections", "OrderedDict")) + p.mapping(items=p.text("x"), get=p.text("x")) + b"b"
    p.archive(path, p.checkpoint(state_dict=state))


@file
def list_that_contains_itself(path: Path) -> None:
    nested: list[Any] = []
    nested.append(nested)
    saved({"hook_msgs": nested})(path)


@file
def state_dict_that_contains_itself(path: Path) -> None:
    state: dict[str, Any] = dict(HEAD)
    state["student.again"] = state
    torch.save({"state_dict": state}, path)


@file
def billion_laughs(path: Path) -> None:
    nested: list[Any] = ["ha"]
    for _ in range(40):
        nested = [nested, nested]
    saved({"hook_msgs": nested})(path)


@file
def nested_deeply(path: Path) -> None:
    p.archive(path, p.student(meta=b"}" + b"\x85" * 300_000))


@file
def endless_program(path: Path) -> None:
    p.archive(path, p.PROTO + b"]" + b"Na" * 3_000_000 + p.STOP)


@file
def endless_name(path: Path) -> None:
    p.archive(path, p.PROTO + b"c" + b"x" * (32 << 20))


@file
def torchscript(path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), str(path))


@file
def tar_file(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        for name in ("../ran", "storages", "tensors", "pickle"):
            info = tarfile.TarInfo(name)
            info.size = 4
            archive.addfile(info, io.BytesIO(b"ran\n"))


@file
def gzip_file(path: Path) -> None:
    path.write_bytes(gzip.compress(bytes(64 << 20)))


@file
def safetensors_with_an_endless_header(path: Path) -> None:
    path.with_suffix(".safetensors").write_bytes((1 << 62).to_bytes(8, "little") + b"{}")


@file
def safetensors_nested_deeply(path: Path) -> None:
    metadata = {"rmrkd": "[" * 200_000 + "]" * 200_000}
    header = json.dumps(
        {"__metadata__": metadata, "x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    ).encode()
    path.with_suffix(".safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def plain(config: str, **weights: torch.Tensor) -> Maker:
    """A plain checkpoint with a config, which `eval` and `compare` build a network from."""
    state = {"decode_head.conv_seg.weight": torch.ones(2, 4, 1, 1), **weights}
    return lambda path: torch.save({"meta": {"config": config, "CLASSES": ("a", "b")}, "state_dict": state}, path)


def network(head: str = "", backbone: str = "", loss: str = "", kind: str = "ResNetV1c") -> str:
    return (
        f"model = dict(type='EncoderDecoder', backbone=dict(type='{kind}', depth=18, {backbone}), "
        f"decode_head=dict(type='FCNHead', in_channels=512, channels=4, num_classes=2, {head} "
        f"loss_decode=dict(type='CrossEntropyLoss', {loss})))"
    )


def _evil_pickle(path: Path) -> None:
    (path.parent / "weights.pkl").write_bytes(pickle.dumps(Gadget(os.system, TOUCH)))


@file
def config_with_a_pickle_of_class_weights(path: Path) -> None:
    _evil_pickle(path)
    plain(network(loss="class_weight='weights.pkl'"))(path)


@file
def config_with_pretrained_weights(path: Path) -> None:
    _evil_pickle(path)
    plain(network(backbone="init_cfg=dict(type='Pretrained', checkpoint='weights.pkl')"))(path)


FILES |= {
    "config_of_endless_layers": plain(network(head="num_convs=10 ** 9,".replace("10 ** 9", "1000000000"))),
    "config_of_many_layers": plain(network(head="num_convs=100000,")),
    "config_of_a_huge_network": plain(network(backbone="stem_channels=100000, base_channels=100000")),
    "config_of_many_ranges": plain("\n".join(f"x{n} = range(256)" for n in range(12_000))),
    "config_that_pools_finely": plain(
        network(head="pool_scales=(1, 30000),").replace("FCNHead", "PSPHead"),
    ),
    "config_of_timm": plain(network(kind="TIMMBackbone")),
    "config_of_nonsense": plain("model = dict(type='EncoderDecoder', backbone=5, decode_head=[None, {1: 2}])"),
}
