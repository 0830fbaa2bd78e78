"""Find the key of a preset that an unknown key stands for: a typing error, another place, or another tool's name."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import get_args

from pydantic import BaseModel

from rmrkd_cli.errors import did_you_mean

# Key of rmrkd -> names that other tools have for it.
_OTHER_NAMES = {
    "lr": "learning_rate lr0 base_lr initial_lr",
    "min_lr": "lrf eta_min final_lr",
    "iters": "epochs max_epochs num_epochs max_iters iterations steps max_steps num_steps total_iters",
    "batch_size": "batch bs samples_per_gpu batchsize per_device_train_batch_size",
    "accumulate": "accumulation accumulate_grad_batches gradient_accumulation_steps grad_accum",
    "workers": "num_workers nw workers_per_gpu",
    "crop": "crop_size img_size imgsz image_size input_size img_scale patch_size",
    "weight_decay": "wd decay",
    "optimizer": "optim optimizer_config",
    "custom_keys": "paramwise_cfg param_groups",
    "lr_mult": "lr learning_rate lr_scale lr_factor",
    "decay_mult": "wd decay weight_decay wd_mult weight_decay_mult",
    "clip_grad": "max_grad_norm gradient_clip_val grad_clip grad_norm",
    "eval_interval": "val_interval eval_every val_every validate_every eval_steps",
    "checkpoint_interval": "save_interval save_every save_steps ckpt_interval",
    "log_interval": "log_every logging_steps print_freq",
    "keep": "max_keep_ckpts save_total_limit save_top_k",
    "amp": "fp16 bf16 precision mixed_precision half",
    "classes": "class_names names num_classes nc labels_names label_names",
    "ignore_labels": "ignore_index ignore_label ignore void",
    "root": "data_root path data_dir root_dir dataset_path",
    "train_scale": "scale img_scale resize",
    "image_suffix": "img_suffix image_ext img_ext",
    "label_suffix": "seg_map_suffix mask_suffix label_ext",
    "images": "img_dir image_dir images_dir img",
    "labels": "ann_dir mask_dir masks masks_dir annotations",
    "checkpoint": "weights pretrained ckpt load_from resume_from",
    "config": "model arch architecture cfg",
    "losses": "loss distill_losses criterion",
    "tau": "temperature t temp",
    "weight": "loss_weight lambda alpha coef factor",
    "stage": "layer layers feature stages module",
    "type": "name kind",
    "deterministic": "cudnn_deterministic",
    "seed": "random_seed manual_seed",
}
# Why there is no key -> names that other tools have for it.
_NO_KEY = {
    "the learning rate is polynomial, after a linear `warmup`: `lr`, `power` and `min_lr`": (
        "scheduler lr_scheduler lr_config lr_policy"
    ),
    "`schedule.optimizer` has the keys `type`, `betas` and `custom_keys`": "betas paramwise_cfg",
    "the warm-up is `schedule.warmup: {iters: 1500, ratio: 1.0e-6}`": (
        "warmup_iters warmup_epochs warmup_steps warmup_ratio"
    ),
    "the augmentation is fixed, except for `data.ratio_range` and `schedule.crop`": (
        "augmentation augmentations augment transforms pipeline train_pipeline"
    ),
    "training ends after `schedule.iters`; `best.pth` holds the best validation": "patience early_stopping",
}


def explain_unknown_key(key: str, model: type[BaseModel]) -> str:
    """Return which key an unknown one of a part of a preset may stand for, or why there is none."""
    known, name = model.model_fields, key.lower().replace("-", "_")
    for own, others in _OTHER_NAMES.items():
        if own in known and name in others.split():
            return f"did you mean `{own}`?"
    if elsewhere := next(_elsewhere(name), ""):
        return f"did you mean `{elsewhere}`?"
    reason = next((text for text, names in _NO_KEY.items() if name in names.split()), "")
    return reason or did_you_mean(key, known)


def _elsewhere(name: str) -> Iterator[str]:
    """Yield the dotted path of keys with this name, or with this name in other tools, in other parts of a preset."""
    paths = _preset_keys()
    yield from (path for path in paths if path.rpartition(".")[2] == name)
    for path in paths:
        if name in _OTHER_NAMES.get(path.rpartition(".")[2], "").split():
            yield path


@cache
def _preset_keys() -> list[str]:
    """Return the dotted path of every key of `data`, `schedule`, `teacher`, `student` and the top, in this order."""
    from rmrkd_cli.presets.schema import Preset

    fields = Preset.model_fields
    parts = ("data", "schedule", "student", "teacher")
    top = [key for key in fields if key not in ("name", "title", "paper")]
    models = {part: _model(fields[part].annotation) for part in parts}
    return [*(f"{part}.{key}" for part, model in models.items() for key in model.model_fields), *top]


def _model(annotation: object) -> type[BaseModel]:
    candidates = [annotation, *get_args(annotation)]
    return next(each for each in candidates if isinstance(each, type) and issubclass(each, BaseModel))
