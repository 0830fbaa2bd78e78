"""Map the channels of a network that knows other classes to the classes of a data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from rmrkd_cli.errors import RmrkdError, did_you_mean
from rmrkd_cli.presets.fields import IGNORE_CHANNEL as IGNORE

_MAX_LISTED = 8  # names in a message
_WHERE = "`teacher.classes` of its preset (--set teacher.classes=[…]), in `eval` and `predict` with --classes"

Entry = int | str  # index or name of a class of the data set, or `ignore`
ClassMap = Sequence[Entry] | Mapping[str, Entry]


class ChannelSum(nn.Module):
    """Sum the probabilities of the channels that stand for one class, and return their logarithms.

    Channels without a class are dropped, and the others sum to one. Logarithms of probabilities serve as logits: their
    softmax is those probabilities.

    Args:
        targets: The class of each channel; None for a channel without a class.
        num_classes: K, the classes of the data set.
    """

    weight: Tensor

    def __init__(self, targets: Sequence[int | None], num_classes: int) -> None:
        super().__init__()
        weight = torch.zeros(num_classes, len(targets), device="cpu")
        for channel, target in enumerate(targets):
            if target is not None:
                weight[target, channel] = 1
        self.register_buffer("weight", weight, persistent=False)
        self.register_buffer("kept", weight.any(0), persistent=False)

    def forward(self, logs: Tensor) -> Tensor:
        """Return (B, K, h, w) from logits or logarithms of probabilities (B, C, h, w), float32."""
        logs = logs[:, self.kept]  # type: ignore[index]
        shares = (logs - logs.amax(1, keepdim=True)).exp()
        sums = torch.einsum("kc,bchw->bkhw", self.weight[:, self.kept], shares)  # type: ignore[index]
        smallest = torch.finfo(sums.dtype).tiny
        return sums.clamp_min(smallest).log() - sums.sum(1, keepdim=True).log()


def resolve_class_map(
    classes: ClassMap | None,
    *,
    file: str,
    channels: int,
    names: Sequence[str] | None,
    num_classes: int,
    class_names: Sequence[str] = (),
    binary: bool = False,
) -> tuple[int | None, ...] | None:
    """Return the class of each channel of a file; None where the channels are the classes.

    Args:
        classes: One entry a channel, or the name of a channel -> its entry: a class's index or name, or `ignore`.
        file: Name of the file in messages.
        channels: Of the file.
        names: Class names that the file declares; None if it declares none.
        num_classes: Classes of the data set.
        class_names: Names of these classes; empty if unknown.
        binary: The file's only channel decides between two classes, which `channels` counts.

    Raises:
        RmrkdError: The map has the wrong length, an entry is no class, or a class of the data set has no channel.
    """
    if classes is None:
        _check_same_classes(file, channels, names, num_classes, class_names, binary)
        return None
    entries = _entries_by_name(classes, file, names) if isinstance(classes, Mapping) else list(classes)
    if len(entries) != channels:
        raise RmrkdError(
            f"the class map has {len(entries)} entries, `{file}` has {_count_channels(channels, binary)}",
            f"give one entry for each {'of them' if binary else 'channel'}, a class or `{IGNORE}`, in {_WHERE}",
        )
    targets = tuple(_target(entry, channel, num_classes, class_names) for channel, entry in enumerate(entries))
    if missing := [number for number in range(num_classes) if number not in targets]:
        raise RmrkdError(
            f"no channel of `{file}` maps to {_list_classes(missing, class_names)}: nothing would teach "
            f"{'it' if len(missing) == 1 else 'them'}",
            f"map a channel to each class of the data set in {_WHERE}; several channels may share a class",
        )
    return targets


def _check_same_classes(
    file: str, channels: int, names: Sequence[str] | None, num_classes: int, class_names: Sequence[str], binary: bool
) -> None:
    declared = f"its classes are {_shorten(names)}" if names else "the file declares no class names"
    if channels != num_classes:
        raise RmrkdError(
            f"`{file}` has {_count_channels(channels, binary)}, the data set has {num_classes} classes; {declared}",
            f"map its channels to the classes with {_WHERE}",
        )
    ours, theirs = [name.casefold() for name in class_names], [name.casefold() for name in names or ()]
    if ours != theirs and sorted(ours) == sorted(theirs):
        place = next(number for number, name in enumerate(ours) if name != theirs[number])
        raise RmrkdError(
            f"`{file}` has the classes of the data set in another order: channel {place} is `{theirs[place]}`, class "
            f"{place} is `{ours[place]}`",
            f"map the channels by name with {_WHERE}",
        )


def _entries_by_name(classes: Mapping[str, Entry], file: str, names: Sequence[str] | None) -> list[Entry]:
    if names is None:
        raise RmrkdError(
            f"`{file}` declares no class names, so its channels cannot be mapped by name",
            f"give a list with one entry for each channel in {_WHERE}",
        )
    known = {name.casefold(): name for name in names}
    given = {name.casefold(): entry for name, entry in classes.items()}
    for name in classes:
        if name.casefold() not in known:
            raise RmrkdError(f"`{file}` has no class `{name}`, {did_you_mean(name, names)}", f"see {_WHERE}")
    if missing := [name for folded, name in known.items() if folded not in given]:
        raise RmrkdError(
            f"the class map has {len(given)} entries, `{file}` has {len(names)} channels: {_shorten(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} missing",
            f"map each name to a class, or to `{IGNORE}`, in {_WHERE}",
        )
    return [given[name.casefold()] for name in names]


def _target(entry: Entry, channel: int, num_classes: int, class_names: Sequence[str]) -> int | None:
    if entry == IGNORE:
        return None
    by_name = {name.casefold(): number for number, name in enumerate(class_names)}
    if isinstance(entry, str) and entry.casefold() in by_name:
        return by_name[entry.casefold()]
    if isinstance(entry, int) and 0 <= entry < num_classes:
        return entry
    allowed = f"0 to {num_classes - 1}, or `{IGNORE}`"
    if isinstance(entry, str) and class_names:
        allowed = f"{did_you_mean(entry, class_names)}; indices are {allowed}"
    raise RmrkdError(f"channel {channel} maps to `{entry}`, which is no class of the data set", allowed)


def _count_channels(channels: int, binary: bool) -> str:
    return "1 channel, which decides between 2 classes" if binary else f"{channels} channels"


def _list_classes(numbers: Sequence[int], class_names: Sequence[str]) -> str:
    shown = [f"`{class_names[number]}`" if class_names else str(number) for number in numbers[:_MAX_LISTED]]
    more = f" and {len(numbers) - _MAX_LISTED} more" if len(numbers) > _MAX_LISTED else ""
    return f"the class{'es' if len(numbers) > 1 else ''} {', '.join(shown)}{more}"


def _shorten(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_MAX_LISTED])
    return shown + (f", … ({len(names)} in all)" if len(names) > _MAX_LISTED else "")
