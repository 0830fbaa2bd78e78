"""Extract the student from a distiller's checkpoint, and write it as a plain file with its library's names."""

from __future__ import annotations

import json
from pathlib import Path

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_new_file

_MAX_LISTED = 6


def transfer(
    source: str | Path,
    target: str | Path,
    form: str | None = None,
    *,
    force: bool = False,
    config: str | Path | None = None,
    without_config: bool = False,
) -> tuple[int, int]:
    """Write the student of a checkpoint to a file, read the file again, and compare.

    Args:
        form: "pth" or "safetensors"; None: by the ending of `target`.
        force: Overwrite existing files.
        config: Also write the student's mmsegmentation config to this file.
        without_config: Leave the config out of the student's metadata.

    Returns:
        The number of tensors, and of their elements.

    Raises:
        RmrkdError: The file contains no student, or a file exists already.
        RunError: A file cannot be written.
    """
    from rmrkd_cli.checkpoints.missing_student import missing_student
    from rmrkd_cli.checkpoints.network_state import HEAD
    from rmrkd_cli.checkpoints.plain_metadata import has_objects, to_plain
    from rmrkd_cli.checkpoints.reader import STUDENT_KIND, read_checkpoint, save_torch
    from rmrkd_cli.checkpoints.safetensors_file import holds, write_safetensors
    from rmrkd_cli.storage.atomic import write_text
    from rmrkd_cli.storage.folder_contents import HUB_WEIGHTS, network_path
    from rmrkd_cli.terminal.messages import log
    from rmrkd_cli.terminal.text import shorten

    source, target = network_path(Path(source)), Path(target)
    config_file = Path(config) if config is not None else None
    form = form or ("safetensors" if target.suffix == ".safetensors" else "pth")
    check_new_file(target, force=force, inputs=[source])
    check_new_file(config_file, force=force, inputs=[source, target])
    if (form == "safetensors") != (target.suffix == ".safetensors"):
        raise RmrkdError(f"`{target.name}` must end with .{form} for this format", f"{target}.{form}")
    checkpoint = read_checkpoint(source, lazy=True)
    student = checkpoint.student()
    is_known = HEAD in student or checkpoint.network is not None
    converts = source.name == HUB_WEIGHTS and form == "pth"
    if (
        checkpoint.kind == "plain"
        and is_known
        and not converts
        and not (checkpoint.rest or has_objects(checkpoint.meta))
    ):
        raise RmrkdError(f"`{source}` is already a plain checkpoint without a teacher", "use it as it is")
    if not student or (checkpoint.kind in ("plain", "wrapped") and not is_known):
        raise missing_student(checkpoint)
    if checkpoint.note:
        log(f"{source}: {checkpoint.note}")
    elif checkpoint.kind == "plain" and not converts:
        others = ", ".join(f"`{shorten(key, 40)}`" for key in list(checkpoint.rest)[:_MAX_LISTED])
        log(f"{source}: a plain checkpoint; written without {others or 'the objects of other libraries in `meta`'}")
    tensors = {key: value.contiguous().clone() for key, value in student.items()}
    meta = {**to_plain(checkpoint.meta), "kind": STUDENT_KIND}
    if without_config:
        meta.pop("config", None)
    elif isinstance(meta.get("config"), str):
        _check_config(meta["config"], source)  # mmsegmentation would run it
    if config_file is not None:
        text = meta.get("config")
        if not isinstance(text, str) or checkpoint.kind == "released":
            raise RmrkdError(f"`{source}` contains no config of its student", "leave out --config")
        write_text(text, config_file)
    if form == "safetensors":
        write_safetensors(tensors, target, rmrkd=json.dumps(meta, default=str))
    else:
        save_torch({"meta": meta, "state_dict": tensors}, target)
    if not holds(target, tensors):
        raise RmrkdError(f"`{target}` differs from what was written to it", "check the disk for errors")
    return len(tensors), sum(value.numel() for value in tensors.values())


def _check_config(text: str, source: Path) -> None:
    from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text

    try:
        parse_config_text(text)
    except RmrkdError as error:
        raise RmrkdError(
            f"`{source}`: {error.message}", "leave the config out of the student's file with --without-config"
        ) from error
