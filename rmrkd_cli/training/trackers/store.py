"""What trackers remember between the processes of one run: `trackers.json`, and what the log held before a resume."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from rmrkd_cli.results.training_log import LOG
from rmrkd_cli.storage.atomic import write_text
from rmrkd_cli.training.trackers.base import LoggedBefore

_FILE = "trackers.json"

State = dict[str, dict[str, Any]]


def read_states(run_path: Path) -> State:
    """Return tracker → what it stored in the run directory; empty where the file is missing or damaged."""
    with suppress(OSError, ValueError):
        contents = json.loads((run_path / _FILE).read_text(encoding="utf-8"))
        if isinstance(contents, dict):
            return {name: state for name, state in contents.items() if isinstance(state, dict)}
    return {}


def write_states(states: State, run_path: Path) -> None:
    """Write what the trackers store; no file if they store nothing."""
    kept = {name: state for name, state in states.items() if state}
    if kept:
        write_text(json.dumps(kept, indent=1) + "\n", run_path / _FILE)


def read_logged(run_path: Path) -> LoggedBefore:
    """Return the iterations in `log.jsonl`; call it before lines beyond the checkpoint are removed."""
    steps, validation = [], 0
    with suppress(OSError):
        for text in (run_path / LOG).read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError, TypeError, KeyError):
                line = json.loads(text)
                if "losses" in line:
                    steps.append(int(line["iter"]))
                elif "val_miou" in line:
                    validation = max(validation, int(line["iter"]))
    return LoggedBefore(tuple(steps), validation)
