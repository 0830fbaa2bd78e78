"""Config files of the user: read as data as mmcv reads them by running them, and refused where they need Python."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.networks.mmseg_file import read_config_file
from rmrkd_cli.presets import user_code
from rmrkd_cli.presets.config_paths import config_root, resolve_config

R18 = "pspnet/pspnet_r18-d8_512x1024_80k_cityscapes.py"
NOWHERE = Path("/nowhere")


def shipped() -> Path:
    root = config_root()
    assert root is not None
    return root


def every_config() -> list[str]:
    return sorted(str(path.relative_to(shipped())) for path in shipped().rglob("*.py") if "_base_" not in path.parts)


def model_of_mmcv(path: Path) -> object:
    from mmcv import Config

    return Config.fromfile(str(path), import_custom_modules=False)._cfg_dict.to_dict()["model"]


@pytest.mark.parametrize("name", [*every_config()[3::40], "hrnet/fcn_hr18_512x1024_40k_cityscapes.py"])
def test_a_config_is_read_as_mmcv_reads_it(name: str) -> None:
    assert read_config_file(str(shipped() / name), NOWHERE)["model"] == model_of_mmcv(shipped() / name)


@pytest.mark.slow
def test_all_configs_but_18_are_read_as_mmcv_reads_them() -> None:
    refused = []
    for name in every_config():
        try:
            model = read_config_file(str(shipped() / name), NOWHERE)["model"]
        except RmrkdError as error:
            refused.append((name, error.message))
            continue
        assert model == model_of_mmcv(shipped() / name), name
    assert len(refused) == 18  # K-Net has a loop, and ConvNeXt and others import mmcls
    assert {name.split("/")[0] for name, _ in refused} == {"knet", "convnext", "poolformer"}
    assert all(re.search(r"line \d+: `\[dict\(|it has `custom_imports`", message) for _, message in refused)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.py").write_text(text)
    return folder / f"{next(iter(files))}.py"


@pytest.mark.parametrize(
    "base",
    [
        "../_base_/models/pspnet_r50-d8.py",
        "_base_/models/pspnet_r50-d8.py",
        "./_base_/models/pspnet_r50-d8.py",
        "mmseg::_base_/models/pspnet_r50-d8.py",
        "/home/else/mmsegmentation/configs/_base_/models/pspnet_r50-d8.py",
    ],
)
def test_a_base_that_is_not_beside_the_file_is_one_that_mmsegmentation_ships(base: str, tmp_path: Path) -> None:
    file = write(tmp_path, net=f"_base_ = ['{base}']\nmodel = dict(decode_head=dict(num_classes=5))")
    model = read_config_file(str(file), shipped())["model"]
    assert (model["backbone"]["depth"], model["decode_head"]["num_classes"]) == (50, 5)
    assert model["decode_head"]["pool_scales"] == (1, 2, 3, 6)


def test_bases_are_merged_and_replaced(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        net="_base_ = ['a.py', 'b.py']\n"
        "model = dict(head=dict(_delete_=True, c=3), backbone=dict(x=_base_.width), list=[1])",
        a="model = dict(head=dict(a=1, b=2), backbone=dict(y=1, z=dict(q=1)), list=[1, 2])",
        b="width = 7",
    )
    expected = {"head": {"c": 3}, "backbone": {"y": 1, "z": {"q": 1}, "x": 7}, "list": [1]}
    assert read_config_file(str(file), NOWHERE)["model"] == expected


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("model = 3", "has no `model`"),
        ("data = dict()", "has no `model`"),
        ("_base_ = 'net.py'", "builds on itself"),
        ("_base_ = 'gone.py'", "builds on `gone.py`, which does not exist beside it and is no config that"),
        ("_base_ = '../../../../../etc/hostname'", "which does not exist beside it and is no config that"),
        ("model = dict(", "is no config: "),
        ("import os\nmodel = dict()", "needs Python: line 1: `import os`; a config is read as data"),
        ("model = [dict(i) for i in 'ab']", "needs Python: line 1: `[dict(i) for i in 'ab']`"),
        ("custom_imports = dict(imports=['mine'])\nmodel = dict()", "needs Python: it has `custom_imports`"),
        ("_base_ = 'other.py'\nmodel = dict(a=dict(b=1))", "gives `model.a` keys, which is a int in its base"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_the_reason(text: str, told: str, tmp_path: Path) -> None:
    file = write(tmp_path, net=text, other="model = dict(a=1)")
    with pytest.raises(RmrkdError) as caught:
        read_config_file(str(file), shipped())
    assert told in caught.value.message
    if "needs Python" in told:
        assert caught.value.hint == f"write the values out, or check the file and let it run with --code {file}"


def test_a_base_that_needs_python_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, net="_base_ = 'other.py'", other="import os")
    with pytest.raises(RmrkdError, match=r"other\.py` needs Python: line 1") as caught:
        read_config_file(str(file), NOWHERE)
    assert caught.value.hint.endswith(f"--code {tmp_path / 'other.py'}")


@pytest.fixture
def code() -> Iterator[None]:
    """Forget afterwards which files may run."""
    yield
    user_code.allow_files([])


@pytest.mark.usefixtures("code")
def test_a_file_that_the_command_line_names_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import os\n_base_ = 'base.py'\nmodel = dict(sizes=[2 * n for n in (1, 2)])"
    file = write(tmp_path, net=text, base="model = dict(depth=3, sizes=[])", broken="x = 1\nraise KeyError('a')")
    user_code.allow_files([str(tmp_path / "base.py")])
    with pytest.raises(RmrkdError, match="needs Python"):
        read_config_file(str(file), NOWHERE)
    user_code.allow_files([str(file), str(tmp_path / "broken.py")])
    assert read_config_file(str(file), NOWHERE) == {"model": {"depth": 3, "sizes": [2, 4]}}
    with pytest.raises(RmrkdError, match=r"broken\.py` cannot be run: KeyError: 'a' \(line 2\)"):
        read_config_file(str(tmp_path / "broken.py"), NOWHERE)


@pytest.mark.usefixtures("code")
def test_custom_imports_of_a_named_file_are_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, own_heads_of_test="loaded = True")
    file = write(tmp_path, net="custom_imports = dict(imports=['own_heads_of_test'])\nmodel = dict()")
    missing = write(tmp_path, missing="custom_imports = dict(imports=['nothing_of_test'])\nmodel = dict()")
    user_code.allow_files([str(file), str(missing)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert read_config_file(str(file), NOWHERE) == {"model": {}}
    assert sys.modules.pop("own_heads_of_test").loaded
    with pytest.raises(RmrkdError, match=r"missing\.py` cannot import .*nothing_of_test") as caught:
        read_config_file(str(missing), NOWHERE)
    assert caught.value.hint == "set PYTHONPATH"


def test_paths_are_found_from_the_presets_folder_and_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    presets, here = tmp_path / "presets", tmp_path / "here"
    for folder in (presets, here, here / "pspnet"):
        folder.mkdir()
    write(presets, a="", b="")
    write(here, b="", c="")
    (here / R18).touch()
    monkeypatch.chdir(here)
    assert resolve_config("a.py", presets) == str(presets / "a.py")
    assert resolve_config("b.py", presets) == str(presets / "b.py")  # the preset's folder first
    assert resolve_config("c.py", presets) == str(here / "c.py")
    assert resolve_config("../here/c.py", presets) == str(here / "c.py")
    assert resolve_config(str(here / "c.py"), presets) == str(here / "c.py")
    assert resolve_config(R18, presets) == R18  # what mmsegmentation ships
    assert resolve_config(f"./{R18}", presets) == str(here / R18)
    assert resolve_config("nothing.py", presets) == "nothing.py"
    assert resolve_config("./nothing.py", presets) == str(presets / "nothing.py")
