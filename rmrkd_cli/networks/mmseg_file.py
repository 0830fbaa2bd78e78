"""Config files of the user for mmsegmentation: read as data, or run where the command line names them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from rmrkd_cli.checkpoints.safety.config_program import BASE, ConfigProgram, NotDataError, UnreadableError
from rmrkd_cli.errors import RmrkdError, summarize_error
from rmrkd_cli.presets import user_code

_DELETE = "_delete_"  # of mmcv: a mapping replaces that of the base file instead of changing it
_IMPORTS = "custom_imports"
_MAX_BASES = 50  # files that one config builds on


def read_config_file(file: str, shipped: Path) -> dict[str, Any]:
    """Return the variables of a config file of mmsegmentation 0.x or 1.x, with those of its bases.

    The file and those in its `_base_` are read as data. A base that does not exist beside the file is one that
    mmsegmentation ships. A file that the command line names is run.

    Args:
        file: The user's file.
        shipped: The folder of mmsegmentation's configs.

    Raises:
        RmrkdError: The file cannot be read, needs Python, or has no `model`.
    """
    if not file.endswith(".py"):
        raise RmrkdError(f"the config `{file}` must end with .py", "give a config file of mmsegmentation")
    values = _read(Path(file).expanduser(), shipped, [], [])
    if not isinstance(values.get("model"), dict):
        raise RmrkdError(f"`{file}` has no `model`", "give a config of mmsegmentation, or a file that has one as base")
    return values


def digest_of(model: Mapping[str, Any]) -> str:
    """Return the SHA-256 of the `model` of a config; comments and the order of files do not change it."""
    return hashlib.sha256(json.dumps(model, sort_keys=True, default=str).encode()).hexdigest()


def check_same_configs(meta: Mapping[str, Any], now: Mapping[str, str], run: Path) -> None:
    """Raise RmrkdError where a run was trained with another network than the user's config files describe now.

    Args:
        meta: `meta` of one of the run's checkpoints.
        now: "student" or "teacher" → digest of its `model`, where a file of the user describes it.
        run: The run directory, for the message.
    """
    sources = meta.get("sources")
    before = sources.get("configs") if isinstance(sources, Mapping) else None
    before = before if isinstance(before, Mapping) else {}
    for what in dict.fromkeys([*before, *now]):
        if before.get(what) is None:
            raise RmrkdError(
                f"`{run}` was trained on images that were not normalized as the config of the {what} says: earlier "
                "versions of rmrkd normalized them as for ImageNet",
                "--fresh to start over",
            )
        if before.get(what) != now.get(what):
            old, new = (str(digests.get(what) or "none")[:12] for digests in (before, now))
            raise RmrkdError(
                f"the config file of the {what} has changed since `{run}` was trained: SHA-256 of its `model` {old}… "
                f"then, {new}… now",
                "restore the file, or --fresh to start over",
            )


def _read(path: Path, shipped: Path, above: list[Path], seen: list[Path]) -> dict[str, Any]:
    """Return the variables of a file and of its bases.

    Args:
        above: The files that build on this one.
        seen: All files read so far.
    """
    path = path.absolute()
    seen.append(path)
    if path in above or len(seen) > _MAX_BASES:
        raise RmrkdError(f"`{path}` builds on itself, or on more than {_MAX_BASES} files", f"check `{BASE}`")

    def read_bases(names: Sequence[str]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for name in names:
            merged.update(_read_base(name, path, shipped, above, seen))
        return merged

    if user_code.is_named(str(path), user_code.allowed_files()):
        own = _run(path)
        names = own.pop(BASE, [])
        merged = read_bases([names] if isinstance(names, str) else names)
    else:
        own, merged = _read_as_data(path, read_bases)
    return _merge(own, merged, path)


def _run(path: Path) -> dict[str, Any]:
    """Run a file with what it imports, and return its variables."""
    variables = vars(user_code.run_code(str(path)))
    values = {
        name: value
        for name, value in variables.items()
        if not name.startswith("__") and not isinstance(value, (types.ModuleType, types.FunctionType, type))
    }
    imports = values.pop(_IMPORTS, None)
    if imports is not None:
        from mmcv.utils import import_modules_from_strings

        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # where `python` would look
        try:
            import_modules_from_strings(**imports)
        except (Exception, SystemExit) as error:
            raise RmrkdError(f"`{path}` cannot import {imports}: {summarize_error(error)}", "set PYTHONPATH") from error
    return values


def _read_as_data(
    path: Path, read_bases: Callable[[Sequence[str]], dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the variables of a file and those of its bases."""
    try:
        program = ConfigProgram(user_code.read_code(str(path)).decode("utf-8-sig"))
        merged = read_bases(program.bases())
        own = program.run(merged)
        for name in ("model", _IMPORTS):
            program.require(name)
    except NotDataError as error:
        raise _needs_python(path, str(error)) from error
    except (UnreadableError, UnicodeDecodeError) as error:
        raise RmrkdError(f"`{path}` is no config: {error}", "give a config file of mmsegmentation") from error
    if _IMPORTS in own:
        raise _needs_python(path, f"it has `{_IMPORTS}`")
    return own, merged


def _needs_python(path: Path, reason: str) -> RmrkdError:
    return RmrkdError(
        f"`{path}` needs Python: {reason}; a config is read as data",
        f"write the values out, or check the file and let it run with --code {path}",
    )


def _read_base(name: str, path: Path, shipped: Path, above: list[Path], seen: list[Path]) -> dict[str, Any]:
    """Return the variables of a base: a file beside this one, else one that mmsegmentation ships."""
    beside = path.parent / name
    if beside.suffix == ".py" and beside.is_file():
        return _read(beside.resolve(), shipped, [*above, path], seen)
    own = shipped / _shipped_name(name)
    if not own.is_file():
        raise RmrkdError(
            f"`{path}` builds on `{name}`, which does not exist beside it and is no config that mmsegmentation ships",
            f"copy the file, or name one of {shipped}",
        )
    from mmcv import Config

    values: dict[str, Any] = Config.fromfile(str(own), import_custom_modules=False)._cfg_dict.to_dict()
    return values


def _shipped_name(name: str) -> str:
    """Return a name below mmsegmentation's configs, for `../_base_/models/a.py` or `mmseg::_base_/models/a.py`."""
    name = re.sub(r"^mmseg::", "", name.replace("\\", "/"))
    parts = [part for part in PurePosixPath(name).parts if part not in ("/", ".")]
    if "configs" in parts:
        parts = parts[len(parts) - parts[::-1].index("configs") :]
    while parts and parts[0] == "..":
        parts = parts[1:]
    return "/".join(parts) if ".." not in parts else ""


def _merge(own: Mapping[str, Any], base: Mapping[str, Any], path: Path, where: str = "") -> dict[str, Any]:
    """Return the values of a base, changed as a file says: mappings are merged, all other values are replaced."""
    merged = dict(base)
    for key, value in own.items():
        if not isinstance(value, dict):
            merged[key] = value
            continue
        before = merged.get(key, {}) if not value.get(_DELETE, False) else {}
        if not isinstance(before, dict):
            raise RmrkdError(
                f"`{path}` gives `{where}{key}` keys, which is a {type(before).__name__} in its base",
                f"add `{_DELETE}=True` to replace it",
            )
        rest = {name: inner for name, inner in value.items() if name != _DELETE}
        merged[key] = _merge(rest, before, path, f"{where}{key}.")
    return merged
