from __future__ import annotations

import hashlib
import os
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from stores.commit import (
    STAGING,
    Committed,
    commit_bytes,
    commit_file,
    commit_tree,
    content_hash,
    garbage,
    publish,
    sweep,
    verify,
)
from stores.errors import DamagedError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def write_adapter(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "weights.bin").write_bytes(b"weights")
    (folder / "inner" / "config.json").write_text("{}")


def test_whoever_may_read_the_folder_may_read_what_is_committed(tmp_path: Path) -> None:
    arrays = {"signal": np.zeros(2)}
    committed = [
        commit_file(tmp_path, "shards", "signals", ".safetensors", lambda path: save_file(arrays, path)),
        commit_tree(
            tmp_path, "checkpoints", "1", lambda path: save_file(arrays, path / "adapter.safetensors")
        ),
    ]
    for path in [tmp_path / each.path for each in committed]:
        file = path if path.is_file() else path / "adapter.safetensors"
        assert file.stat().st_mode & 0o777 == path.parent.stat().st_mode & 0o666


def test_name_holds_the_hash_of_the_content(tmp_path: Path) -> None:
    committed = commit_bytes(tmp_path, "timesteps/0001", "decisions", ".parquet", b"table")
    digest = hashlib.sha256(b"table").hexdigest()
    assert committed == Committed(f"timesteps/0001/decisions-{digest[:16]}.parquet", digest, 5)
    assert (tmp_path / committed.path).read_bytes() == b"table"
    assert names(tmp_path / "timesteps/0001") == [Path(committed.path).name]


def test_file_and_folders_are_synced_around_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(descriptor: int) -> None:
        events.append("fsync " + Path(os.readlink(f"/proc/self/fd/{descriptor}")).name[:9])
        real_fsync(descriptor)

    def replace(source: Path, target: Path) -> None:
        events.append("rename")
        real_replace(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    commit_bytes(tmp_path, "media", "pack", ".bin", b"x")
    assert events == [f"fsync {tmp_path.name[:9]}", f"fsync {STAGING}", "rename", "fsync media"]


def test_same_content_is_kept_once(tmp_path: Path) -> None:
    first = commit_bytes(tmp_path, "a", "file", ".bin", b"same")
    place = (tmp_path / first.path).stat().st_ino
    assert commit_bytes(tmp_path, "a", "file", ".bin", b"same") == first
    assert (tmp_path / first.path).stat().st_ino == place
    assert names(tmp_path / "a") == [Path(first.path).name]


@pytest.mark.parametrize("tree", [False, True])
def test_committing_again_heals_a_damaged_target(tmp_path: Path, tree: bool) -> None:
    def commit() -> Committed:
        if tree:
            return commit_tree(tmp_path, "a", "0001", write_adapter)
        return commit_bytes(tmp_path, "a", "file", ".bin", b"good")

    first = commit()
    damaged = tmp_path / first.path / "weights.bin" if tree else tmp_path / first.path
    damaged.write_bytes(b"evil")
    assert commit() == first
    verify(tmp_path, first)
    assert [path for path in os.listdir(tmp_path / "a") if path.startswith(STAGING)] == []


def test_a_failing_writer_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("disk full")

    def write_tree(path: Path) -> None:
        write(path / "half")

    with pytest.raises(OSError, match="disk full"):
        commit_file(tmp_path, "a", "file", ".bin", write)
    with pytest.raises(OSError, match="disk full"):
        commit_tree(tmp_path, "a", "tree", write_tree)
    assert names(tmp_path / "a") == []


def test_stem_that_is_no_file_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="becomes a file name"):
        commit_bytes(tmp_path, "a", "../out", ".bin", b"x")
    assert names(tmp_path / "a") == []


def test_tree_hash_depends_on_names_and_contents_only(tmp_path: Path) -> None:
    committed = commit_tree(tmp_path, "checkpoints", "0001", write_adapter)
    assert committed.bytes == len(b"weights") + len("{}")
    lines = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n"
        for name, data in [("inner/config.json", b"{}"), ("weights.bin", b"weights")]
    )
    assert committed.sha256 == hashlib.sha256(lines.encode()).hexdigest()
    renamed = tmp_path / "renamed"
    shutil.copytree(tmp_path / committed.path, renamed)
    assert content_hash(renamed)[0] == committed.sha256
    (renamed / "weights.bin").rename(renamed / "other.bin")
    assert content_hash(renamed)[0] != committed.sha256


def test_publish_can_be_redone_and_follows_the_next_commit(tmp_path: Path) -> None:
    first = commit_bytes(tmp_path, "timesteps/0001", "decisions", ".parquet", b"one")
    alias = tmp_path / "timesteps/0001/decisions.parquet"
    for _ in range(2):
        publish(tmp_path, first, alias.name)
        assert alias.read_bytes() == b"one"
    assert alias.samefile(tmp_path / first.path)
    second = commit_bytes(tmp_path, "timesteps/0001", "decisions", ".parquet", b"two")
    publish(tmp_path, second, alias.name)
    assert alias.read_bytes() == b"two"
    assert (tmp_path / first.path).read_bytes() == b"one"
    assert len(names(alias.parent)) == 3


def test_publish_copies_where_links_are_not_possible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(source: Path, target: Path) -> None:
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    committed = commit_bytes(tmp_path, "a", "decisions", ".parquet", b"one")
    publish(tmp_path, committed, "decisions.parquet")
    alias = tmp_path / "a/decisions.parquet"
    assert alias.read_bytes() == b"one"
    assert not alias.samefile(tmp_path / committed.path)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "is missing"),
        (b"shorter", "has 7 bytes and was committed with 9"),
        (b"same size", "was altered"),
    ],
)
def test_verify_names_the_file_its_content_and_the_remedy(
    tmp_path: Path, data: bytes | None, message: str
) -> None:
    committed = commit_bytes(tmp_path, "a", "decisions", ".parquet", b"committd!")
    verify(tmp_path, committed)
    path = tmp_path / committed.path
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(DamagedError, match=message) as caught:
        verify(tmp_path, committed, holds="decisions of timestep 1")
    for part in (str(path), "decisions of timestep 1", committed.sha256):
        assert part in str(caught.value)


def test_sweep_removes_garbage_and_nothing_else(tmp_path: Path) -> None:
    known_file = commit_bytes(tmp_path, "shards/0001", "vectors-000000", ".safetensors", b"known")
    known_tree = commit_tree(tmp_path, "checkpoints", "0001", write_adapter)
    inside = tmp_path / known_tree.path / f"part-{'a' * 16}.bin"
    inside.write_bytes(b"belongs to the known folder")
    publish(tmp_path, known_file, "latest.safetensors")
    (tmp_path / "shards/notes.txt").write_text("the user's")
    orphan = commit_bytes(tmp_path, "shards/0001", "vectors-000000", ".safetensors", b"orphan")
    orphan_tree = commit_tree(tmp_path, "checkpoints", "0002", lambda path: (path / "x").touch())
    (tmp_path / "checkpoints/.staging-0123").mkdir()
    (tmp_path / "checkpoints/.staging-0123/half").touch()
    (tmp_path / "shards/0001/.tmpAb12cD").touch()  # safetensors, killed while it wrote
    (tmp_path / f"outside-{'a' * 16}.bin").touch()

    known = {known_file.path, known_tree.path}
    folders = ["shards", "checkpoints", "not-made-yet"]
    expected = sorted([orphan.path, orphan_tree.path, "checkpoints/.staging-0123", "shards/0001/.tmpAb12cD"])
    assert garbage(tmp_path, known, folders) == expected
    assert sweep(tmp_path, known, folders) == expected
    verify(tmp_path, known_file)
    assert inside.exists()
    assert (tmp_path / "shards/0001/latest.safetensors").exists()
    assert (tmp_path / "shards/notes.txt").exists()
    assert (tmp_path / f"outside-{'a' * 16}.bin").exists()
    assert sweep(tmp_path, known, folders) == []


def test_sweep_keeps_a_folder_that_holds_something_known(tmp_path: Path) -> None:
    folder = f"shards/batch-{'b' * 16}"
    committed = commit_bytes(tmp_path, folder, "vectors", ".bin", b"x")
    assert sweep(tmp_path, {committed.path}, ["shards"]) == []
    verify(tmp_path, committed)


@pytest.mark.parametrize("moment", ["fsync", "replace"])
def test_killed_between_stage_and_rename_leaves_only_garbage(
    tmp_path: Path, in_child, die, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    (tmp_path / "media").mkdir()

    def work() -> None:
        monkeypatch.setattr(os, moment, lambda *arguments: die())
        commit_bytes(tmp_path, "media", "pack", ".bin", b"half")

    assert in_child(work) == -signal.SIGKILL
    left = os.listdir(tmp_path / "media")
    assert len(left) == 1
    assert left[0].startswith(STAGING)
    assert sweep(tmp_path, set(), ["media"]) == [f"media/{left[0]}"]
    assert os.listdir(tmp_path / "media") == []
