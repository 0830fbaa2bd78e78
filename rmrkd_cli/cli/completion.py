"""What the shell offers after `--preset`, `--method` and `--dataset` when the user presses Tab.

The functions import no library, because the shell waits for them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

from rmrkd_cli.presets.names import DATASETS, method_names, preset_dir, preset_names, recipe_names

_YAML = (".yaml", ".yml")
_TITLE = re.compile(r'^title: *"?(.*?)"? *$', re.MULTILINE)
_HEAD = 2000  # characters of a preset, which hold its title


def complete_preset(incomplete: str) -> list[tuple[str, str]]:
    """Return the presets of rmrkd with their titles, and YAML files and folders."""
    return [*_titled(preset_dir(), preset_names(), incomplete), *_files(incomplete, _YAML)]


def complete_method(incomplete: str) -> list[tuple[str, str]]:
    """Return the methods of rmrkd with their titles."""
    return _titled(preset_dir() / "methods", method_names(), incomplete)


def complete_recipe(incomplete: str) -> list[tuple[str, str]]:
    """Return the recipes of rmrkd with their titles, and YAML files and folders."""
    return [*_titled(preset_dir() / "recipes", recipe_names(), incomplete), *_files(incomplete, _YAML)]


def complete_dataset(incomplete: str) -> list[str]:
    """Return the data sets that need no preset."""
    return [name for name in DATASETS if name.startswith(incomplete) and name != "custom"]


def _titled(folder: Path, names: Iterable[str], incomplete: str) -> list[tuple[str, str]]:
    """Return the names that begin like this, with the titles of their files."""
    return [(name, _title(folder / f"{name}.yaml")) for name in names if name.startswith(incomplete)]


def _title(path: Path) -> str:
    with suppress(OSError):
        found = _TITLE.search(path.read_text(encoding="utf-8")[:_HEAD])
        return found[1] if found else ""
    return ""


def _files(incomplete: str, suffixes: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Yield the files with one of the suffixes, and folders, that begin like a path; they have no titles."""
    folder, _, start = incomplete.rpartition("/")
    prefix = f"{folder}/" if "/" in incomplete else ""
    with suppress(OSError, ValueError):
        for entry in sorted(os.scandir(os.path.expanduser(prefix) or "."), key=lambda entry: entry.name):
            if entry.name.startswith(start) and (start or not entry.name.startswith(".")):
                if entry.is_dir():
                    yield f"{prefix}{entry.name}/", ""
                elif entry.name.endswith(suffixes):
                    yield f"{prefix}{entry.name}", ""
