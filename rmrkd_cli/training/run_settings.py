"""Whether a run has the settings of a preset: its `config.yaml` compared with the preset, key by key."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.presets.loader import to_yaml
from rmrkd_cli.presets.safe_yaml import parse_yaml, read_yaml
from rmrkd_cli.presets.schema import Preset
from rmrkd_cli.terminal.sanitize import escape_control
from rmrkd_cli.training.extension import LENGTH_KEYS, is_extension, saved_schedule

# Keys that may differ when a run is resumed.
_MAY_CHANGE = (
    "title", "paper", "data.cache", "teacher.min_miou",
    *(f"schedule.{key}" for key in ("workers", "keep", "checkpoint_interval", "log_interval")),
    "schedule.skip_nonfinite", "schedule.skip_corrupt",
)  # fmt: skip
_MAY_CHANGE_WITH_FORCE = ("schedule.batch_size", "schedule.accumulate")
# Without this key a run did what no value of it says: TF32 in convolutions only. `resume.py` logs what changes.
_MAY_BE_ADDED = ("schedule.tf32",)

_HUB_CHECKPOINT = ("teacher.checkpoint.path", "teacher.checkpoint.hub")  # written by older versions, and today

# Role → keys that it does not use.
_UNLABELLED = ("data.unlabelled", "data.labelled_share", "data.label_threshold")
_NOT_USED_BY = {
    "teacher": (*_UNLABELLED, "student.", "losses", "method", "schedule.time_budget"),
    "baseline": (*_UNLABELLED, "teacher.", "losses", "method"),
    "distill": ("teacher.schedule",),
}


def check_same_settings(config: Path, preset: Preset, *, force: bool, tensor_names: Callable[[], set[str]]) -> None:
    """Check that the `config.yaml` of a run equals a preset, except in the keys that may change.

    A run of an older version lacks newer keys. Each is compared as its default, which is what that version did.

    Args:
        force: The batch size and the number of passes may differ.
        tensor_names: Returns the names of the tensors in the run's checkpoint; called only where they decide.

    Raises:
        RmrkdError: Lists the keys that differ.
    """
    try:
        contents = read_yaml(config, "configuration")
    except RmrkdError as error:
        raise RmrkdError(error.message, "--fresh, or --work-dir DIR") from error
    written, before, now = _flatten(contents), _flatten(_complete(contents)), _flatten(_as_mapping(preset))
    ignored = _MAY_CHANGE + _NOT_USED_BY.get(preset.role, ()) + (_MAY_CHANGE_WITH_FORCE if force else ())
    ignored += tuple(key for key in _MAY_BE_ADDED if key not in written)
    ignored += _HUB_CHECKPOINT if _was_cache_path(before, now) else ()
    schedule = saved_schedule(contents, preset.role)
    if schedule is not None and is_extension(schedule, preset.schedule_for(preset.role)):
        ignored += LENGTH_KEYS
    changed = [
        key
        for key in before.keys() | now.keys()
        if before.get(key) != now.get(key)
        and not key.startswith(ignored)
        and not _had_always_convolution(key, before, now, tensor_names)
    ]
    if changed:
        changed.sort(key=lambda key: (key.count("."), key))  # the most general first
        raise _other_settings(config.parent, changed, written, before, now)


def _other_settings(
    folder: Path, changed: list[str], written: Collection[str], before: Mapping[str, Any], now: Mapping[str, Any]
) -> RmrkdError:
    lines = [
        f"  {_shorten(key)}: {_shorten(before.get(key))} in the run"
        + (", which does not name it and has the default" if key in before and key not in written else "")
        + f", {_shorten(now.get(key))} now"
        for key in changed[:10]
    ]
    shorter = any(key in LENGTH_KEYS for key in changed)
    return RmrkdError(
        f"`{folder}` contains a run with other settings:\n" + "\n".join(lines),
        ("a run can be trained further, with a larger --max-iters, but not be made shorter; " if shorter else "")
        + "repeat its settings, or use --fresh or --work-dir DIR"
        + (", or --force to resume anyway" if set(changed) <= set(_MAY_CHANGE_WITH_FORCE) else ""),
    )


def _had_always_convolution(
    key: str, before: Mapping[str, Any], now: Mapping[str, Any], tensor_names: Callable[[], set[str]]
) -> bool:
    """Return whether `align: conv-always` now names what `conv` meant when the run began: see `resume.py`."""
    loss = key.removesuffix(".align")
    return (
        loss != key
        and now.get(f"{loss}.type") == "cwd"
        and (before.get(key), now.get(key)) == ("conv", "conv-always")
        and f"{key}.weight" in tensor_names()
    )


def _was_cache_path(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a run of an older version names a path in the hub's cache for the teacher's weights of a name.

    That the file is the same one is checked by its SHA-256, which is in the checkpoints.
    """
    path, hub = (key in found for key, found in zip(_HUB_CHECKPOINT, (before, now), strict=True))
    named = now.get("teacher.weights")
    return path and hub and named is not None and before.get("teacher.weights") == named


def _complete(contents: Any) -> Any:
    """Return the contents of a `config.yaml` with the defaults of the keys that it lacks; unchanged if invalid."""
    try:
        return _as_mapping(Preset.model_validate(contents))
    except ValidationError:
        return contents


def _as_mapping(preset: Preset) -> Any:
    return parse_yaml(to_yaml(preset), "preset")


def _shorten(value: Any) -> str:
    text = escape_control(value)
    return text if len(text) <= 200 else f"{text[:199]}…"


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key → value of nested mappings."""
    if not isinstance(value, dict):
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat.update(_flatten(inner, f"{prefix}.{key}" if prefix else str(key)))
    return flat
