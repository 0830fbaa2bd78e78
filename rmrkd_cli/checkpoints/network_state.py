"""Find the weights of one network in what a checkpoint holds: under another key, behind a prefix, beside a teacher."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from rmrkd_cli.errors import RmrkdError

HEAD = "decode_head.conv_seg.weight"  # the classifier of an mmsegmentation network with one decode head
# Where training scripts put the state dict, the first preferred; averaged weights only where there are no others.
_CONTAINERS = (
    "state_dict", "model_state_dict", "model_state", "model", "net", "network", "module", "student", "weights",
    "params", "ema_state_dict", "state_dict_ema", "model_ema", "ema_model", "ema", "params_ema",
)  # fmt: skip
_NOT_NETWORKS = (
    "optim", "sched", "scaler", "loops", "callbacks", "meta", "message_hub", "rng", "args", "config", "hyper",
    "hparams",
)  # fmt: skip
_WRAPPERS = ("_orig_mod.", "_fsdp_wrapped_module.", "_checkpoint_wrapped_module.")  # torch's names for what it wraps
_ROLES = ("student.", "teacher.")  # of a distiller, which keeps them
_PARTS = ("backbone.", "decode_head.", "auxiliary_head.", "neck.")  # of a network
_STUDENTS = ("student", "architecture", "model", "net", "module", "segmentor")
_OTHERS = ("teacher", "ema", "momentum")  # in the name of a network beside the student
STATE_DICT_LINE = 'torch.save({"state_dict": model.state_dict()}, "weights.pth")'
_MAX_DEPTH = 4
_LISTED = 4

State = dict[str, Tensor]


@dataclass(frozen=True)
class NetworkState:
    """The weights of a network.

    Attributes:
        tensors: By name, without the prefix.
        holder: The mapping that has the state dict, with `meta` beside it.
        place: Where the state dict is in the file, such as `["model"]["state_dict"]`; empty for the file itself.
        prefix: What all names began with; empty for none.
        left_out: Number of tensors that belong to something else.
        renamed: The names of torch's wrappers were removed from names.
    """

    tensors: State
    holder: Mapping[Any, Any]
    place: str = ""
    prefix: str = ""
    left_out: int = 0
    renamed: bool = False

    @property
    def is_wrapped(self) -> bool:
        """Return whether a program that looks for `state_dict` and plain names would not find the weights."""
        return bool(self.prefix or self.left_out or self.renamed) or self.place not in ("", '["state_dict"]')

    @property
    def note(self) -> str:
        """Return where the weights were found, in words; empty for a plain file."""
        parts = [f"under {self.place}"] if self.place not in ("", '["state_dict"]') else []
        parts += ["without the names of torch's wrappers"] if self.renamed else []
        parts += [f"behind the prefix `{self.prefix}`"] if self.prefix else []
        rest = f"; {self.left_out} other tensors are left out" if self.left_out else ""
        return f"its weights are read {' '.join(parts) or 'by name'}{rest}" if parts or rest else ""


def find_state(contents: Mapping[Any, Any], path: object) -> NetworkState:
    """Return the weights in the contents of a checkpoint.

    A distiller keeps the prefixes of student and teacher; anything else loses the prefix of its network.

    Raises:
        RmrkdError: There are no tensors, or several networks and no name says which is the student.
    """
    if (described := _described(contents)) is not None:
        return described
    found = _locate(contents, contents, "", 0)
    if len(found) > 1:
        with_head = [one for one in found if any(key.endswith(HEAD) for key in one.tensors)]
        found = with_head if len(with_head) == 1 else found
    if len(found) > 1:
        places = [one.place for one in found]
        raise _several(path, "state dicts", places, places[0], "")
    if not found:
        held = f"only the entries {_names(map(str, contents))}" if contents else "it is an empty mapping"
        raise RmrkdError(f"`{path}` contains no tensors, {held}", f"write the weights of a network: {STATE_DICT_LINE}")
    state = found[0]
    return select_network(state, path)


def _described(contents: Mapping[Any, Any]) -> NetworkState | None:
    """Return the state dict of a file of rmrkd that describes its network: its names are those of the network."""
    meta, state = contents.get("meta"), contents.get("state_dict")
    if not isinstance(meta, Mapping) or not isinstance(meta.get("network"), Mapping) or not isinstance(state, Mapping):
        return None
    tensors = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    return NetworkState(tensors, contents, '["state_dict"]') if tensors else None


def select_network(state: NetworkState, path: object) -> NetworkState:
    """Return the state without the prefix of its network, and without the tensors of others."""
    stripped, prefix = _strip_teacher(*strip_common_prefix(state.tensors))
    tensors = _without_wrappers(stripped)
    whole = replace(state, tensors=tensors, prefix=prefix, renamed=tensors.keys() != stripped.keys())
    if any(key.startswith("student.") for key in tensors):
        return whole
    places = sorted({key.removesuffix(HEAD) for key in tensors if key == HEAD or key.endswith(f".{HEAD}")})
    chosen = _choose(places)
    if chosen is None and len(places) > 1:
        raise _several(path, "networks", [f"`{place}`" for place in places], state.place, places[0])
    if chosen is None:
        return whole
    others = tuple(place for place in (*places, "teacher.") if place != chosen and place.startswith(chosen))
    own = {
        key.removeprefix(chosen): value
        for key, value in tensors.items()
        if key.startswith(chosen) and not (others and key.startswith(others))
    }
    return replace(whole, tensors=own, prefix=prefix + chosen, left_out=len(tensors) - len(own))


def strip_common_prefix(tensors: Mapping[str, Tensor]) -> tuple[State, str]:
    """Return the tensors without what all their names begin with, up to a dot, and that prefix.

    The parts of a network, such as `backbone.`, and the roles of a distiller are kept.
    """
    state, prefix = dict(tensors), ""
    while True:
        heads = {key.partition(".")[0] for key in state}
        head = f"{next(iter(heads), '')}."
        if len(heads) != 1 or head in (*_ROLES, *_PARTS):
            break
        rest = {key.removeprefix(head): value for key, value in state.items()}
        if not all(rest) or not any("." in key for key in rest):  # the parameters of a single layer
            break
        state, prefix = rest, prefix + head
    return state, prefix


def _strip_teacher(tensors: State, prefix: str) -> tuple[State, str]:
    """Remove `teacher.` as well where all names begin with it and a whole network follows: a teacher saved alone."""
    role = "teacher."
    if not all(key.startswith(role) for key in tensors):
        return tensors, prefix
    rest, inner = strip_common_prefix({key.removeprefix(role): value for key, value in tensors.items()})
    return (rest, prefix + role + inner) if HEAD in _without_wrappers(rest) else (tensors, prefix)


def prefix_of(own: Iterable[str], names: Iterable[str]) -> str:
    """Return the prefix behind which `names` has the most of a network's own names; empty without a clear one."""
    own, names = list(own), list(names)
    probes = {key for key in own if key.endswith("weight")}
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for number in range(1, min(len(parts), _MAX_DEPTH + 1)):
            if ".".join(parts[number:]) in probes:
                counts[".".join(parts[:number]) + "."] += 1
    prefix, count = counts.most_common(1)[0] if counts else ("", 0)
    return prefix if 2 * count > len(probes) else ""


def fixing_line(path: object, place: str, prefix: str) -> str:
    """Return the line of Python that writes the network under a prefix into a file of its own."""
    names = f'{{k[{len(prefix)}:]: v for k, v in state.items() if k.startswith("{prefix}")}}' if prefix else "state"
    return (
        f'state = torch.load("{path}", map_location="cpu"){place}; torch.save({{"state_dict": {names}}}, "weights.pth")'
    )


def _locate(node: Mapping[Any, Any], holder: Mapping[Any, Any], place: str, depth: int) -> list[NetworkState]:
    """Return the state dicts of a file: the one under a known name, else the node itself, else those below it."""
    if depth > _MAX_DEPTH:
        return []
    inner = {key: child for key, child in node.items() if isinstance(key, str) and isinstance(child, Mapping)}
    for key in _CONTAINERS:
        if key in inner and (found := _locate(inner[key], node, f'{place}["{key}"]', depth + 1)):
            return found
    tensors = {str(key): value for key, value in node.items() if isinstance(value, Tensor)}
    if tensors and not all("." not in key for key in tensors):
        return [NetworkState(tensors, holder, place)]
    found = []
    for key, child in inner.items():
        if not key.lower().startswith(_NOT_NETWORKS):
            found += _locate(child, node, f'{place}["{key}"]', depth + 1)
    return found or ([NetworkState(tensors, holder, place)] if tensors else [])


def _without_wrappers(tensors: State) -> State:
    """Remove the names of torch's wrappers wherever they are, for example of a compiled backbone."""
    if not any(wrapper in key for key in tensors for wrapper in _WRAPPERS):
        return tensors
    clean: State = {}
    for key, value in tensors.items():
        for wrapper in _WRAPPERS:
            key = key.replace(f".{wrapper}", ".").removeprefix(wrapper)
        clean[key] = value
    return clean


def _choose(places: list[str]) -> str | None:
    """Return the prefix of the student among those of several networks; None where no name decides."""
    if "" in places:
        return ""
    own = [place for place in places if not any(other in place.lower() for other in _OTHERS)]
    if len(own) > 1:
        own = [place for place in own if place.split(".")[0] in _STUDENTS[:2]] or [
            place for place in own if place.split(".")[0] in _STUDENTS
        ]
    return own[0] if len(own) == 1 else None


def _several(path: object, what: str, places: list[str], place: str, prefix: str) -> RmrkdError:
    more = f", and {len(places) - _LISTED} more" if len(places) > _LISTED else ""
    return RmrkdError(
        f"`{path}` has several {what}: {', '.join(places[:_LISTED])}{more}",
        f"write the one you need into a file of its own, for example: {fixing_line(path, place, prefix)}",
    )


def _names(names: Iterable[str]) -> str:
    every = list(names)
    shown = ", ".join(f"`{name}`" for name in every[: _LISTED + 2])
    return shown + (" …" if len(every) > _LISTED + 2 else "") or "none"
