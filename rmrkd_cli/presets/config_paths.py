"""Tell config files of the user from the configs that mmsegmentation ships, and find them."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

_EXPLICIT = ("/", "~", "./", "../")  # at the start of what is always a file of the user


def resolve_config(config: str, folder: Path) -> str:
    """Return the absolute path of a config file of the user; the name of a config that mmsegmentation ships stays.

    Args:
        config: As written in a preset: a name that mmsegmentation ships, else a path relative to the preset's folder
            or to the working directory.
        folder: Of the preset.
    """
    is_explicit = config.startswith(_EXPLICIT) or Path(config).is_absolute()
    if not is_explicit and is_shipped(config):
        return config
    candidates = [folder / Path(config).expanduser(), Path(config).expanduser()]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        return os.path.abspath(candidates[0]) if is_explicit else config
    return os.path.abspath(found)


def is_own_config(config: str) -> bool:
    """Return whether a config is a file of the user: a path that `resolve_config` returned, or one that exists."""
    return (
        config.startswith(_EXPLICIT)
        or Path(config).is_absolute()
        or (not is_shipped(config) and os.path.isfile(config))
    )


def is_shipped(config: str) -> bool:
    """Return whether mmsegmentation ships a config of this name. It is not imported."""
    root = config_root()
    return root is not None and ".." not in Path(config).parts and (root / config).is_file()


def config_root() -> Path | None:
    """Return the folder of mmsegmentation's configs; None if it is not installed."""
    spec = find_spec("mmseg")
    if spec is None or not spec.submodule_search_locations:
        return None
    return (Path(next(iter(spec.submodule_search_locations))) / ".mim" / "configs").resolve()
