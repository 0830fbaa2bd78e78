"""The student of a distiller's checkpoint, written as a plain mmsegmentation file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rmrkd_cli.errors import RmrkdError
from rmrkd_cli.storage.output_paths import check_new_file


def transfer(
    source: Path,
    target: Path,
    form: str,
    *,
    force: bool = False,
    config: Path | None = None,
    without_config: bool = False,
) -> tuple[int, int]:
    """Writes the student, reads it back, and compares; returns the number of tensors and of their elements.

    Raises:
        RmrkdError: When there is no student in the file, or something would be overwritten.
    """
    import torch

    from rmrkd_cli.checkpoints.reader import STUDENT_KIND, read_checkpoint, save_torch
    from rmrkd_cli.storage.atomic import write_text

    check_new_file(target, force=True, inputs=[source])
    check_new_file(config, force=True, inputs=[source, target])
    for file in (target, config):
        if file is not None and os.path.lexists(file) and not force:
            raise RmrkdError(f"`{file}` exists, and nothing is overwritten", "choose another name, or --force")
    if (form == "safetensors") != (target.suffix == ".safetensors"):
        raise RmrkdError(f"`{target.name}` does not end as a {form} file does", f"{target}.{form}")
    checkpoint = read_checkpoint(source, lazy=True)
    student = checkpoint.student()
    if checkpoint.kind == "plain" and any(key.startswith("decode_head.") for key in student):
        raise RmrkdError(f"`{source}` is already a plain checkpoint, there is nothing to take out", "use it as it is")
    if checkpoint.kind == "plain" or not student:
        groups = sorted({key.split(".")[0] for key in checkpoint.state})
        raise RmrkdError(
            f"`{source}` holds no student: no key begins with `student.`, there are {', '.join(groups[:8])}"
        )
    tensors = {key: value.contiguous().clone() for key, value in student.items()}
    meta = {**checkpoint.meta, "kind": STUDENT_KIND}
    if without_config:
        meta.pop("config", None)
    elif isinstance(meta.get("config"), str):
        _check_config(meta["config"], source)  # mmsegmentation would run it
    if config is not None:
        text = meta.get("config")
        if not isinstance(text, str) or checkpoint.kind == "released":
            raise RmrkdError(f"`{source}` holds no config of its student", "leave out --config")
        write_text(text, config)
    if form == "safetensors":
        _save_safetensors(tensors, meta, target)
    else:
        save_torch({"meta": meta, "state_dict": tensors}, target)
    written = read_checkpoint(target).state
    if written.keys() != tensors.keys() or not all(torch.equal(written[key], tensors[key]) for key in tensors):
        raise RmrkdError(f"`{target}` does not read back as it was written", "is the disk full or failing?")
    return len(tensors), sum(value.numel() for value in tensors.values())


def _check_config(text: str, source: Path) -> None:
    from rmrkd_cli.checkpoints.safety.mmseg_config import parse_config_text

    try:
        parse_config_text(text)
    except RmrkdError as error:
        raise RmrkdError(
            f"`{source}`: {error.message}", "--without-config leaves it out of the student's file"
        ) from error


def _save_safetensors(tensors: dict[str, Any], meta: dict[str, Any], target: Path) -> None:
    import json

    from safetensors.torch import save_file

    from rmrkd_cli.storage.atomic import save_atomic

    text = json.dumps(meta, default=str)
    save_atomic(lambda partial: save_file(tensors, partial, {"format": "pt", "rmrkd": text}), target)
