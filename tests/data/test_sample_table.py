"""The table of samples: order, names and paths equal those of single objects, and processes share its memory."""

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path

import pytest

from rmrkd_cli.data import folder_listing
from rmrkd_cli.data.folder_listing import list_names, missing_names
from rmrkd_cli.data.loader_server import loader_context
from rmrkd_cli.data.sample_table import Part, PartNames, Sample, SampleTable
from rmrkd_cli.data.samples import fingerprint

PART = Part(Path("images"), Path("masks"), ".jpg", "_mask.png")
OTHER = Part(Path("images"), Path("other"), ".jpg", ".png")
NAMES = ["town/b", "a", "town-2/c", "é", "日本", "\udcff", "a b\nc", "𝄞", "\uffff"]


def table(count: int) -> SampleTable:
    return SampleTable([PartNames(PART, [f"folder/{number:06d}" for number in range(count)])])


def test_order_and_paths_are_those_of_sorted_objects() -> None:
    names = {PART: NAMES, OTHER: [*NAMES[:4], "z"]}
    expected = sorted(
        (
            Sample(name, part.images / f"{name}{part.image_suffix}", part.labels / f"{name}{part.label_suffix}")
            for part, own in names.items()
            for name in own
        ),
        key=lambda sample: sample.name,
    )
    samples = SampleTable([PartNames(part, own) for part, own in names.items()])
    assert samples == expected
    assert list(samples) == expected
    assert [samples[index] for index in range(-1, -len(samples) - 1, -1)] == expected[::-1]
    assert samples[2:-1:3] == expected[2:-1:3]
    assert samples[::-1][1:] == expected[::-1][1:]
    assert list(samples.names()) == [sample.name for sample in expected]
    with pytest.raises(IndexError):
        samples[len(expected)]


def test_fingerprint_is_that_of_the_names() -> None:
    samples = SampleTable([PartNames(PART, NAMES[:5])])
    digest = hashlib.sha256("\n".join(sorted(NAMES[:5])).encode()).hexdigest()[:12]
    assert fingerprint(samples) == fingerprint(list(samples)) == digest
    assert fingerprint(samples[1:]) == fingerprint(list(samples)[1:]) != digest
    assert fingerprint(samples[::-1]) == fingerprint(list(samples)[::-1]) != digest


def test_a_large_table_is_shared_and_a_small_one_copied() -> None:
    small, large = table(10), table(100_000)
    assert pickle.loads(pickle.dumps(small)) == small
    assert len(pickle.dumps(large)) < 2000
    assert pickle.loads(pickle.dumps(large[7:])) == large[7:]
    context = loader_context()
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(large, sender))
    process.start()
    sender.close()
    private, sample = receiver.recv()
    process.join()
    assert sample == large[-1]
    assert private < 500_000  # the names take 1.4 MB, their places 0.8 MB


def _report(samples: SampleTable, sender) -> None:  # type: ignore[no-untyped-def]
    """Send the bytes of the names that this process holds for itself, after it has read them all."""
    before = _private_bytes()
    for _ in samples.names():
        pass
    sender.send((_private_bytes() - before, samples[-1]))


def _private_bytes() -> int:
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_listing_equals_rglob(tmp_path: Path) -> None:
    files = ["b.jpg", ".hidden.jpg", ".jpg", "town/a.jpg", "town/.deep/c.jpg", "x.JPG", "a.png", "town/é.jpg"]
    for file in files:
        (tmp_path / "data" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / file).touch()
    folder = tmp_path / "data"
    (folder / "folder.jpg").mkdir()
    (folder / "broken.jpg").symlink_to("nowhere")
    (folder / "link.jpg").symlink_to("b.jpg")
    (folder / "other").symlink_to("town")  # is not entered
    found = sorted(path.relative_to(folder).as_posix()[:-4] for path in folder.rglob("*.jpg"))
    names, others = list_names(folder, ".jpg")
    assert sorted(names + others) == found
    assert others == ["broken", "folder"]
    assert list_names(folder / "b.jpg", ".jpg") == ([], [])


@pytest.mark.parametrize("one_by_one", [True, False])
def test_missing_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_by_one: bool) -> None:
    if not one_by_one:
        monkeypatch.setattr(folder_listing, "_MAX_STATS", 0)
    (tmp_path / "town").mkdir()
    (tmp_path / "c.png").mkdir()
    for file in ("a.png", "town/b.png"):
        (tmp_path / file).touch()
    os.symlink("town", tmp_path / "link")
    names = ["z", "a", "town/b", "./a", "town//b", "link/b", "c", "link/z"]
    assert missing_names(tmp_path, ".png", names) == ["z", "c", "link/z"]
    assert missing_names(tmp_path / "nowhere", ".png", ["a"]) == ["a"]


def test_joined_tables_keep_their_order() -> None:
    without = Part(Path("more"), None)
    first, second = (
        SampleTable([PartNames(PART, NAMES)]),
        SampleTable([PartNames(without, ["é.png", "b.png", "a.png"])]),
    )
    joined = first + second
    assert joined == [*first, *second]
    assert joined[-1] == Sample("é.png", Path("more/é.png"), None)
    assert first[1:-1:2] + second[::-1] == [*first[1:-1:2], *second[::-1]]
    assert joined + SampleTable([PartNames(PART, [])]) == SampleTable([PartNames(PART, [])]) + joined == joined
    assert [joined.count_labelled(), joined[-4:].count_labelled(), second.count_labelled()] == [len(NAMES), 1, 0]
    assert SampleTable([PartNames(PART, ["b", "a"])]).digest() == hashlib.sha256(b"a\nb").hexdigest()
    both = "\n".join(["a", "b", "a.png", "b.png", "é.png"]).encode()
    assert (SampleTable([PartNames(PART, ["b", "a"])]) + second).digest() == hashlib.sha256(both).hexdigest()
