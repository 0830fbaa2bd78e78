"""Name the files in a folder that was given in place of one of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rmrkd_cli.errors import RmrkdError

_MAX_SHOWN = 6
_RUN_FILES = ("student.pth", "best.pth", "last.pth")
RESULT = "result.json"
HUB_WEIGHTS, HUB_CONFIG = "model.safetensors", "config.json"  # of a folder that `rmrkd export --hub` writes


def files_to_name(folder: Path, *, results: bool = False) -> str:
    """Return which files of a folder can be given instead, as a hint; "" if it has none.

    Args:
        folder: A run directory, a folder of run directories, or any folder with checkpoints.
        results: Result files can be given as well.
    """
    names = ((RESULT,) if results else ()) + _RUN_FILES
    found = _existing(folder, names) or [
        path for run in sorted(folder.iterdir()) if run.is_dir() for path in _existing(run, names)[:1]
    ]
    if not found:
        suffixes = (".pth", ".safetensors", *((".json",) if results else ()))
        found = sorted(path for path in folder.iterdir() if path.suffix in suffixes and path.is_file())
    more = f", … ({len(found)} files)" if len(found) > _MAX_SHOWN else ""
    return f"name the file: {' or '.join(map(str, found[:_MAX_SHOWN]))}{more}" if found else ""


def network_path(path: Path) -> Path:
    """Return the weights of a hub folder, see `checkpoints.hub_folder`; any other path unchanged."""
    weights = path / HUB_WEIGHTS
    return weights if weights.is_file() and (path / HUB_CONFIG).is_file() else path


def check_checkpoint_file(path: Path) -> None:
    """Raise RmrkdError if a checkpoint that a command needs is missing or a folder; the hint names files to give."""
    if network_path(path).is_file():
        return
    problem, named = ("is a folder, not a file", files_to_name(path)) if path.is_dir() else ("does not exist", "")
    raise RmrkdError(f"checkpoint `{path}` {problem}", named or "name a .pth or .safetensors file")


def _existing(folder: Path, names: Sequence[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]
