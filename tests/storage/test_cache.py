from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rmrkd_cli.errors import RmrkdError, RunError
from rmrkd_cli.networks.mmseg_zoo import zoo_url
from rmrkd_cli.storage import cache
from tests.helpers.https import CONTENT, DIGEST, serving


@pytest.fixture
def address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A local https server whose authority is trusted, and an empty cache."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setenv("RMRKD_CACHE", str(tmp_path / "cache"))
    with serving(tmp_path) as server:
        yield server.address


def files() -> list[str]:
    folder = cache.cache_dir() / "checkpoints"
    found = list(folder.iterdir()) if folder.is_dir() else []
    return sorted(path.name for path in found if path.suffix != ".lock")


def test_a_file_is_fetched_once_and_checked(address: str) -> None:
    seen = []
    path = cache.fetch(f"{address}/a-{DIGEST[:8]}.pth", DIGEST[:8], lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == CONTENT
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert files() == [f"a-{DIGEST[:8]}.pth"]
    before = path.stat().st_mtime_ns
    assert cache.fetch("https://localhost:1/" + path.name, DIGEST).stat().st_mtime_ns == before


def test_a_damaged_file_in_the_cache_is_an_error(address: str) -> None:
    path = cache.fetch(f"{address}/c.pth", DIGEST)
    path.write_bytes(b"damaged")
    with pytest.raises(RmrkdError, match="expected") as failure:
        cache.fetch(f"{address}/c.pth", DIGEST)
    assert "delete" in failure.value.hint
    assert path.read_bytes() == b"damaged"


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("nowhere")], ids=["folder", "dead link"])
def test_an_unreadable_entry_in_the_cache_is_not_deleted(address: str, make: Callable[[Path], None]) -> None:
    place = cache.cache_dir() / "checkpoints" / "e.pth"
    place.parent.mkdir(parents=True)
    make(place)
    with pytest.raises(RunError, match="cannot read") as failure:
        cache.fetch(f"{address}/e.pth", DIGEST)
    assert f"move `{place}` away" in failure.value.hint
    assert files() == ["e.pth"]


def test_without_a_network_the_hint_names_where_to_save_the_file(address: str) -> None:
    with pytest.raises(RmrkdError) as failure:
        cache.fetch("https://localhost:1/d.pth", DIGEST, hint="go without with --student-checkpoint none")
    assert "https://localhost:1/d.pth" in failure.value.message
    assert str(cache.cache_dir() / "checkpoints" / "d.pth") in failure.value.hint
    assert "--student-checkpoint none" in failure.value.hint


def test_zoo_names_have_the_urls_of_mmcvs_tables() -> None:
    assert zoo_url("open-mmlab://resnet18_v1c").endswith("/resnet18_v1c-b5776b93.pth")
    assert zoo_url("mmcls://mobilenet_v2").endswith("-3b2dc3af.pth")
    with pytest.raises(RmrkdError, match="did you mean `resnet18_v1c`"):
        zoo_url("open-mmlab://resnet18_v1d")
