"""The names that options of rmrkd have in mmsegmentation, ultralytics, Lightning, Hugging Face and torchrun."""

from __future__ import annotations

# What to use here: options of other tools, without dashes at the start, and with `-` in place of `_`.
_TRAIN = """
`--max-iters N`, which counts iterations, not epochs: epochs max-epochs num-epochs n-epochs nepochs num-train-epochs
`--max-iters N`, which counts iterations, not epochs: total-epochs train-epochs
`--max-iters N`: iters iterations steps max-steps num-steps total-iters num-iters train-steps total-steps niter
`--set schedule.lr=0.01`: lr lr0 learning-rate base-lr initial-lr
`--set schedule.min_lr=0.0001`: lrf min-lr eta-min
`--set schedule.momentum=0.9`: momentum
`--set schedule.weight_decay=0.0005`: weight-decay wd decay
`--set schedule.clip_grad=10`: clip-grad max-grad-norm gradient-clip-val grad-clip
`--set schedule.accumulate=2`: accumulate accumulate-grad-batches gradient-accumulation-steps grad-accum
`--set schedule.crop=[512,512]`: imgsz img-size image-size crop crop-size input-size img-scale
`--set schedule.eval_interval=1000`: eval-interval val-interval val-check-interval eval-every eval-steps
`--set schedule.checkpoint_interval=1000`: save-interval checkpoint-interval save-steps save-every save-period
`--set schedule.log_interval=50`: log-interval logging-steps print-freq log-every-n-steps log-every
`--set schedule.optimizer.type=AdamW` with `--set schedule.lr=6.0e-5`: optimizer optim adam adamw
`--set schedule.warmup.iters=1500`: warmup warmup-iters warmup-epochs warmup-steps warmup-ratio
`--set schedule.power=1.0`; the learning rate is polynomial: scheduler lr-scheduler lr-policy cos-lr
`--batch-size N`, images per GPU: batch bs b batchsize train-batch-size per-device-train-batch-size samples-per-gpu
`--preset NAME|FILE`: config cfg cfg-file config-file yaml conf arch model-config
`--set KEY.PATH=VALUE`: cfg-options opts options override overrides
`--data-root DIR`, or a preset with your folders and classes: data dataset data-dir data-path dataset-path dataroot root
`--set data.classes=[…]`, or `data.classes` in the preset: classes num-classes nc names class-names
`--gpus N`, a number; CUDA_VISIBLE_DEVICES selects GPUs: device-ids gpu gpu-id gpu-ids devices num-gpus ngpus n-gpus
`--gpus N`, a number; CUDA_VISIBLE_DEVICES selects GPUs: nproc-per-node num-processes
`--gpus N`, which starts the workers: launcher local-rank strategy distributed ddp world-size rank dist
`--nodes N`: nnodes num-nodes num-machines
`--rdzv-endpoint HOST:PORT`: master-addr master-port dist-url main-process-ip
`--device auto|cpu|cuda`: accelerator no-cuda use-cpu cpu cuda
`--work-dir DIR`: output output-dir out out-dir save-dir savedir project logdir log-dir default-root-dir ckpt-dir
`--work-dir DIR`: name exp exp-name experiment run-name
`--student-checkpoint FILE` or `--teacher-checkpoint FILE`: weights pretrained checkpoint ckpt model load-from load init
`--student-checkpoint FILE` or `--teacher-checkpoint FILE`: init-weights model-name-or-path pretrained-weights
`--teacher-checkpoint FILE`, or `teacher` in the preset: teacher teacher-weights teacher-path teacher-ckpt teacher-model
`--teacher-checkpoint FILE`, or `teacher` in the preset: teacher-pretrained teacher-config teacher-cfg
`--student-checkpoint FILE`, or `student` in the preset: student student-weights student-path student-ckpt student-model
`--student-checkpoint FILE`, or `student` in the preset: student-pretrained student-config student-cfg
`--resume`, which takes no value: resume-from resume-from-checkpoint auto-resume continue ckpt-path resume-path
`--fresh`: overwrite exist-ok overwrite-output-dir restart from-scratch
`--workers N`: num-workers nw dataloader-num-workers workers-per-gpu j
`--seed N`: random-seed manual-seed global-seed
`--amp bf16` or `--amp fp16`: fp16 bf16 half precision mixed-precision use-amp autocast
`--keep N`: save-total-limit max-keep-ckpts save-top-k
`--method NAME`: loss losses distiller kd distill distill-loss kd-loss
`--set losses.cwd.weight=1`: loss-weight alpha lambda kd-weight
`--set losses.cwd.tau=4`: temperature tau kd-temperature
`--set losses.cwd.stage=logits`: stage layer layers hint-layer
`--cache ram|disk`: cache-images cache-dataset
`--dry-run`: fast-dev-run debug check-only sanity-check
`rmrkd eval CHECKPOINT`: eval evaluate val validate test test-only evaluate-only
`--track tensorboard,wandb,mlflow`: tensorboard wandb mlflow logger report-to use-wandb tracker trackers
"""
_CHECKPOINT = "weights checkpoint ckpt model load-from pretrained weights-path student network"
_MEASURE = f"""
the checkpoint as an argument: {_CHECKPOINT}
`--preset NAME|FILE`: config cfg cfg-file config-file yaml
`--data-root DIR`, or `--dataset NAME`: data data-dir data-path dataset-path
`--batch-size N`: batch bs samples-per-gpu
`--workers N`: num-workers nw workers-per-gpu
`--gpus N`, a number; CUDA_VISIBLE_DEVICES selects GPUs: device-ids gpu gpu-id gpu-ids devices num-gpus nproc-per-node
`--gpus N`, which starts the workers: launcher local-rank
`--flip` and `--scales 0.5,1.0,1.5`: tta augment aug-test multi-scale
`--json FILE`: output-file save-json out
`--mode slide` with `--crop` and `--stride`: slide sliding-window window
`--max-images N`: limit num-samples max-samples n-samples
"""
_TABLES = {
    "train": _TRAIN,
    "eval": _MEASURE + "`--save-predictions DIR`: show-dir save-dir output-dir save-txt save-pred save-images",
    "compare": _MEASURE + "`--report DIR`: output-dir report-dir save-dir html",
    "predict": f"""
the checkpoint as an argument, `rmrkd predict CHECKPOINT INPUT`: {_CHECKPOINT}
the images as arguments, `rmrkd predict CHECKPOINT INPUT`: source input image images img video data folder
`--out DIR`: output-dir save-dir project name show-dir out-dir out-file save
`--scale WIDTHxHEIGHT`: imgsz img-size image-size size
`--flip` and `--scales 0.5,1.0,1.5`: tta augment
`--preset NAME|FILE`: config cfg
`--device auto|cpu|cuda`: gpu gpus gpu-id cpu no-cuda
`--workers N`: num-workers nw
""",
    "export": f"""
the checkpoint as an argument, `rmrkd export CHECKPOINT OUT.onnx`: {_CHECKPOINT}
the file as an argument, `rmrkd export CHECKPOINT OUT.onnx`: out output-file save onnx-file file
`--scale WIDTHxHEIGHT`: imgsz img-size image-size input-size shape size input-shape
`--preset NAME|FILE`: config cfg
`--format onnx|torchscript`: include type backend
`--force`: overwrite exist-ok
open sizes and batches in every file: dynamic dynamic-axes batch batch-size
""",
    "transfer": f"""
the files as arguments, `rmrkd transfer CHECKPOINT OUT`: {_CHECKPOINT} output out input save-dir
`--force`: overwrite exist-ok
""",
    "plot": """
`--out FILE`: output save save-dir title out-file
the run directories as arguments, `rmrkd plot RUN`: log logs log-dir logdir json-logs work-dir
""",
}


def other_names(command: str) -> dict[str, str]:
    """Return option of another tool -> what to use in a command, such as `train`."""
    rows = [line.rpartition(": ") for line in _TABLES.get(command, "").splitlines() if line]
    return {name: text for text, _, names in rows for name in names.split()}


def name_here(command: str, option: str) -> str:
    """Return what stands for an option of another tool, as typed, such as `--max_epochs`; "" for an unknown one.

    Singular and plural are the same: `--epoch` and `--epochs`.
    """
    table = other_names(command)
    typed = option.lstrip("-").partition("=")[0].lower().replace("_", "-")
    forms = (typed, f"{typed}s", f"{typed}es", typed.removesuffix("s"), typed.removesuffix("es"))
    return next((table[form] for form in forms if form in table), "")
