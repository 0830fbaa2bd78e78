"""`--set KEY.PATH=VALUE` beside the options that change the same keys: `--set` wins."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from rmrkd_cli.errors import RmrkdError

# One option sets several keys, and `--set` for one of them is the way to give it another value.
_NO_CONTRADICTION = ("teacher.schedule.iters",)


def combine_settings(settings: Sequence[str], options: Sequence[tuple[str, str, str]]) -> list[str]:
    """Return the changes of a preset as `KEY=VALUE`, in an order in which `--set` wins over the options.

    Args:
        settings: The texts of `--set`.
        options: Key, value and option, such as `("schedule.iters", "3", "--max-iters")`.

    Raises:
        RmrkdError: For `--seeds` and another seed by `--set`.
    """
    from rmrkd_cli.terminal.messages import log

    given = set_keys(settings)
    if "seed" in given and any(option == "--seeds" for *_, option in options):
        raise RmrkdError("--seeds and --set seed exclude each other", "leave out --set seed")
    for key, _, option in options:
        if key in given and key not in _NO_CONTRADICTION:
            log(f"--set {key} takes precedence over {option}")
    remaining = [(key, value) for key, value, _ in options if key not in given]
    # A part of what an option sets, such as `student.checkpoint.allow_partial`, is applied to the option's value.
    parts = [text for text in settings if any(text.strip().startswith(f"{key}.") for key, _ in remaining)]
    return [*settings, *(f"{key}={value}" for key, value in remaining), *parts]


def checkpoint_override(network: str, preset: str, file: str) -> tuple[str, str, str]:
    """Return key, value as JSON, and option of `--teacher-checkpoint FILE` or `--student-checkpoint FILE`.

    Args:
        network: "teacher" or "student".
        preset: Name or file; its teacher may be an ONNX or TorchScript file, or a folder of a published model.
    """
    from rmrkd_cli.presets.loader import load_preset

    option = f"--{network}-checkpoint"
    if network == "teacher":
        teacher = load_preset(preset).teacher
        if teacher.is_file or teacher.gives_only_features:
            return f"teacher.{'file' if teacher.is_file else 'weights'}", json.dumps(file), option
    return f"{network}.checkpoint", f"{{path: {json.dumps(file)}}}", option


def set_keys(settings: Sequence[str]) -> set[str]:
    """Return the keys that `--set` names, with those inside its values: `schedule={iters: 3}` names two."""
    from rmrkd_cli.presets.safe_yaml import parse_yaml

    found: set[str] = set()
    for text in settings:
        key, _, value = text.partition("=")
        try:
            found.update(_keys_in(key.strip(), parse_yaml(value, "the value")))
        except RmrkdError:  # `load_preset` reports it
            found.add(key.strip())
    return found


def _keys_in(key: str, value: object) -> Iterator[str]:
    yield key
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _keys_in(f"{key}.{name}", inner)
