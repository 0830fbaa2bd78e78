"""The model card of a hub folder: README.md with its YAML front matter."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import yaml

from rmrkd_cli.checkpoints.hub_folder import LIBRARY
from rmrkd_cli.evaluation.checkpoint_network import CheckpointNetwork
from rmrkd_cli.evaluation.model_card import ModelCard
from rmrkd_cli.results.protocol import protocol_line
from rmrkd_cli.results.record import Record

_TASK = {"type": "image-segmentation", "name": "Semantic segmentation"}
_METRICS = {"miou": ("mean_iou", "mIoU"), "macc": ("mean_accuracy", "mean accuracy"), "aacc": ("accuracy", "accuracy")}
_FILES = {
    "model.safetensors": "weights",
    "config.json": "network, classes, colours and origin",
    "preprocessor_config.json": "how images become the network's input",
}


def write_card(
    name: str, model: CheckpointNetwork, card: ModelCard, result: Record | None, files: Sequence[str]
) -> str:
    """Return the text of README.md.

    Args:
        name: Of the model.
        result: Measured with the checkpoint; None: the card has no figures.
        files: Names of the other files.
    """
    front = yaml.safe_dump(_front_matter(name, card, result), sort_keys=False, allow_unicode=True, width=1000)
    parts = [
        f"---\n{front}# license: name it here, such as mit; the data set and the teacher may restrict it\n---",
        f"# {_line(name)}",
        _description(model, card),
        _figures(result),
        _classes(card, result),
        _usage(card, files),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(name: str, card: ModelCard, result: Record | None) -> dict[str, Any]:
    front: dict[str, Any] = {
        "library_name": LIBRARY,
        "pipeline_tag": _TASK["type"],
        "tags": ["semantic-segmentation", "knowledge-distillation", LIBRARY],
    }
    if card.dataset not in (None, "custom", "demo"):  # the Hub links the name to a data set
        front["datasets"] = [card.dataset]
    if result is None:
        return front
    front["metrics"] = [_METRICS["miou"][0]]
    protocol = result["protocol"]
    metrics = [
        {"type": kind, "name": shown, "value": round(float(result["metrics"][key]), 4)}
        for key, (kind, shown) in _METRICS.items()
        if result["metrics"].get(key) is not None
    ]
    dataset = {"name": protocol["dataset"], "type": protocol["dataset"], "split": protocol["split"]}
    front["model-index"] = [{"name": name, "results": [{"task": _TASK, "dataset": dataset, "metrics": metrics}]}]
    return front


def _description(model: CheckpointNetwork, card: ModelCard) -> str:
    meta = model.metadata
    network = model.checkpoint.network or {}
    what = f"`{_code(network['name'])}` of {_line(network['library'])}" if network.get("name") else "a network"
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    lines = [
        f"Semantic segmentation into {len(card.classes)} classes by {what} with {parameters / 1e6:.2f} M parameters."
    ]
    if meta["role"] == "distill":
        lines.append(f"It was distilled from a larger network with the method {_line(meta['method'] or 'rmrkd')}.")
    if meta["iterations"] is not None:
        lines.append(f"It was trained for {meta['iterations']} iterations with rmrkd.")
    if network.get("library") == "python":
        lines.append("A Python file builds the network. It is not in this folder: name it with `--code FILE`.")
    return " ".join(lines)


def _figures(result: Record | None) -> str:
    if result is None:
        return "## Figures\n\nNothing was measured."
    rows = [
        ("mIoU", _percent(result["metrics"]["miou"])),
        ("mean accuracy", _percent(result["metrics"]["macc"])),
        ("accuracy", _percent(result["metrics"]["aacc"])),
    ]
    if result.get("parameters") is not None:
        rows.append(("parameters", f"{result['parameters'] / 1e6:.2f} M"))
    if result.get("macs") is not None:
        size = "x".join(map(str, result["protocol"]["scale"]))
        rows.append((f"multiply-accumulate operations for {size}", f"{result['macs'] / 1e9:.2f} G"))
    table = "\n".join(f"| {name} | {value} |" for name, value in rows)
    return f"## Figures\n\n| | |\n|---|---|\n{table}\n\nMeasured: {_line(protocol_line(result['protocol']))}."


def _classes(card: ModelCard, result: Record | None) -> str:
    ious = (
        result["metrics"]["iou"] if result is not None and len(result["metrics"]["iou"]) == len(card.classes) else None
    )
    head = "| index | class | colour |" + (" IoU |" if ious else "")
    rows = []
    for number, (name, colour) in enumerate(zip(card.classes, card.palette, strict=True)):
        iou = f" {_percent(ious[number])} |" if ious else ""
        rows.append(f"| {number} | {_line(name)} | {', '.join(map(str, colour))} |{iou}")
    return "\n".join(["## Classes", "", head, "|---|---|---|" + ("---|" if ious else ""), *rows])


def _usage(card: ModelCard, files: Sequence[str]) -> str:
    others = {
        name: "the network for onnxruntime" if name.endswith(".onnx") else "the network as TorchScript"
        for name in files
    }
    listed = "\n".join(f"| `{_code(name)}` | {what} |" for name, what in {**others, **_FILES}.items())
    size = f" Images are fitted into {card.scale[0]}x{card.scale[1]} first." if card.scale is not None else ""
    return (
        "## Use\n\nDownload the folder, and give it in place of a checkpoint:\n\n"
        "```bash\nrmrkd predict FOLDER photos/\nrmrkd eval FOLDER --dataset NAME\n```\n\n"
        f'```python\nfrom rmrkd_cli import load_network\n\nnetwork = load_network("FOLDER")\n```\n\n{size.strip()}\n\n'
        f"| file | contents |\n|---|---|\n{listed}"
    ).replace("\n\n\n\n", "\n\n")


def _percent(share: Any) -> str:
    return "–" if share is None else f"{100 * float(share):.2f} %"


def _code(text: object) -> str:
    """Return a text as one line that fits between backticks."""
    return " ".join(str(text).replace("`", "'").split())


def _line(text: object) -> str:
    """Return a text from a checkpoint as one line without Markdown or HTML of its own."""
    line = " ".join(str(text).split())
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#" and not char.isalnum() else char for char in line)
