"""Facts of file pairs kept between commands, so that nothing is read twice that did not change."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rmrkd_cli.data.check.pair_scan import Facts
from rmrkd_cli.data.datasets import DatasetInfo
from rmrkd_cli.data.samples import Sample
from rmrkd_cli.storage.atomic import save_atomic
from rmrkd_cli.storage.cache import cache_dir

_VERSION = 1
_MOST_PAIRS = 200_000  # in one file; those of other splits go first
_MOST_FILES = 32  # data sets; those not checked for longest go first


class ScanCache:
    """What earlier checks found in the files of one data set, wherever they were called from."""

    def __init__(self, info: DatasetInfo, *, fresh: bool = False) -> None:
        root = str(info.root.resolve())
        identity = hashlib.sha256(os.fsencode(root)).hexdigest()[:16]
        self.root = root
        self.path = cache_dir() / "checks" / f"{info.name}-{identity}.json"
        self._pairs: dict[str, Any] = {} if fresh else _read(self.path)
        self._changed = False

    def get(self, sample: Sample) -> Facts | None:
        """The facts of a pair, if both files are still those that were read."""
        entry = self._pairs.get(self._key(sample))
        stamp = stamp_of(sample) if entry is not None else None
        if entry is None or stamp is None:
            return None
        try:
            kept, facts = entry
            return _facts(facts) if kept == stamp else None
        except (ValueError, TypeError, AttributeError):  # damaged, or of another version
            return None

    def put(self, sample: Sample, stamp: str | None, facts: Facts) -> None:
        """Keeps facts; `stamp` is of the files as they were before they were read."""
        if stamp is not None:
            self._changed = True
            self._pairs[self._key(sample)] = [stamp, {key: value for key, value in asdict(facts).items() if value}]

    def save(self, used: Iterable[Sample]) -> None:
        """Writes them down; `used` are the last ones that would be given up for want of room.

        Raises:
            RunError: When the cache cannot be written.
        """
        if not self._changed:
            with suppress(OSError):
                os.utime(self.path)  # it was of use
            return
        first = [self._key(sample) for sample in used]
        keys = list(dict.fromkeys([*(key for key in first if key in self._pairs), *self._pairs]))[:_MOST_PAIRS]
        contents = {"version": _VERSION, "root": self.root, "pairs": {key: self._pairs[key] for key in keys}}
        text = json.dumps(contents, separators=(",", ":")).encode("utf-8", "surrogateescape")
        save_atomic(lambda partial: _fill(partial, text), self.path)
        kept = sorted(self.path.parent.glob("*.json"), key=_age)
        for path in kept[_MOST_FILES:]:
            with suppress(OSError):
                path.unlink()

    def _key(self, sample: Sample) -> str:
        return f"{os.path.abspath(sample.image)}|{os.path.abspath(sample.label)}"


def stamp_of(sample: Sample) -> str | None:
    """Of both files as they are now; none when one is missing."""
    facts = []
    for path in (sample.image, sample.label):
        try:
            status = os.stat(path)
        except OSError:
            return None
        facts.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return hashlib.blake2b(repr(facts).encode(), digest_size=12).hexdigest()


def _read(path: Path) -> dict[str, Any]:
    """A damaged cache is an empty one."""
    try:
        contents = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    usable = isinstance(contents, dict) and contents.get("version") == _VERSION
    pairs = contents.get("pairs") if usable else None
    return pairs if isinstance(pairs, dict) else {}


def _facts(raw: Mapping[str, Any]) -> Facts:
    sizes = {key: (int(raw[key][0]), int(raw[key][1])) for key in ("image", "label") if key in raw}
    counts = {int(value): int(pixels) for value, pixels in raw.get("counts", {}).items()}
    if not all(0 <= value <= 255 and pixels > 0 for value, pixels in counts.items()):
        raise ValueError("no label values")
    texts = {key: str(raw[key]) for key in ("bad_image", "bad_label", "complaint") if key in raw}
    return Facts(counts=counts, turned=bool(raw.get("turned")), **sizes, **texts)  # type: ignore[arg-type]


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:
        return 0.0


def _fill(path: Path, contents: bytes) -> None:
    path.write_bytes(contents)
