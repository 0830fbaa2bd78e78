"""What `evaluate` and `compare` measure, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from rmrkd_cli.api.checks import Size, check_choices, check_scales, check_window, file_input, used_boundary_width
from rmrkd_cli.api.devices import choose_devices
from rmrkd_cli.presets.dataset_names import dataset_name

if TYPE_CHECKING:
    from rmrkd_cli.distributed.cluster import Cluster
    from rmrkd_cli.presets.schema import Preset


@dataclass(frozen=True, kw_only=True)
class EvaluationSettings:
    """The arguments that `evaluate` and `compare` share; see there.

    Attributes:
        file_input: Of ONNX and TorchScript files: `input`, `output` and `classes` as in a preset's teacher.

    Raises:
        RmrkdError: For values that are invalid or exclude each other.
    """

    dataset: str | None = None
    data_root: str | None = None
    split: str = "val"
    max_images: int | None = None
    preset: str | None = None
    code: Sequence[str] = ()
    allow_partial: bool = False
    mode: str = "whole"
    crop: Size | None = None
    stride: Size | None = None
    flip: bool = False
    scales: Sequence[float] = (1.0,)
    device: str = "auto"
    gpus: int | None = None
    batch_size: int | None = None
    workers: int | None = None
    file_input: dict[str, Any] | None = None
    boundary_iou: bool = False
    boundary_width: float | None = None

    def __post_init__(self) -> None:
        check_choices(split=self.split, mode=self.mode, device=self.device)
        check_window(self.mode, self.crop, self.stride)
        check_scales(self.scales)
        used_boundary_width(self.boundary_iou, self.boundary_width)

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> EvaluationSettings:
        """Return the settings of a function's arguments, which describe a file by `mean`, `std` and others."""
        own = {field.name: given[field.name] for field in fields(cls) if field.name != "file_input"}
        if own["data_root"] is not None:
            own["data_root"] = str(own["data_root"])
        names = ("mean", "std", "color", "input_size", "output", "classes")
        return cls(**own, file_input=file_input(*(given[name] for name in names)))

    def protocol(self) -> dict[str, Any]:
        """Return what is measured, and how images are given to the network, as arguments of `evaluate_files`."""
        return {
            "split": self.split, "scales": check_scales(self.scales), "flip": self.flip, "mode": self.mode,
            "crop": self.crop, "stride": self.stride,
            "boundary_width": used_boundary_width(self.boundary_iou, self.boundary_width),
        }  # fmt: skip

    @property
    def has_defaults(self) -> bool:
        """Return whether no argument changes what is measured."""
        return self.protocol() == EvaluationSettings().protocol() and self.max_images is None

    def load_preset(self) -> Preset | None:
        """Return the preset of `preset`."""
        from rmrkd_cli.presets.loader import load_preset

        return load_preset(self.preset) if self.preset is not None else None

    def choose_devices(self) -> tuple[str, Cluster]:
        """Return the device kind, and the workers: another launcher's, else those of the arguments."""
        return choose_devices(self.device, self.gpus, self.workers)

    def arguments(self, preset: Preset | None, device: str) -> dict[str, Any]:
        """Return the arguments of `evaluate_files`."""
        return {
            "preset": preset.model_dump(mode="json") if preset is not None else None,
            "dataset": dataset_name(self.dataset), "data_root": self.data_root, **self.protocol(),
            "batch_size": self.batch_size, "workers": self.workers, "device": device, "max_images": self.max_images,
            "allow_partial": self.allow_partial, "file_input": self.file_input,
        }  # fmt: skip
