from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from stores.commit import verify
from stores.errors import DamagedError, StoreError
from stores.shards import Pick, Shard, ShardReader, read_array, read_shard, write_shard


def arrays(rows: int, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        "ordinal": rng.integers(0, 1 << 40, rows),
        "perplexity": rng.normal(size=rows).astype(np.float32),
        "gradient": rng.normal(size=(rows, 8)).astype(np.float16),
    }


def write_all(root: Path, sizes: list[int]) -> tuple[list[Shard], list[dict[str, np.ndarray]]]:
    contents = [arrays(rows, position) for position, rows in enumerate(sizes)]
    shards = []
    for position, content in enumerate(contents):
        committed = write_shard(root, 3, "signals", position, content)
        rows = sizes[position]
        shards.append(Shard(3, "signals", position, committed.path, committed.sha256, committed.bytes, rows))
    return shards, contents


def test_a_shard_gives_back_every_bit(tmp_path: Path) -> None:
    content = arrays(5, 0)
    committed = write_shard(tmp_path, 3, "signals", 12, content)
    verify(tmp_path, committed)
    assert committed.path.startswith("shards/0003/signals-000012-")
    back = read_shard(tmp_path / committed.path)
    assert back.keys() == content.keys()
    for name, array in content.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
        np.testing.assert_array_equal(read_array(tmp_path / committed.path, name), array)


def test_strided_views_are_written_by_value(tmp_path: Path) -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    views = {"transposed": whole.T, "every second": whole[:, ::2], "reversed": whole[::-1]}
    back = read_shard(tmp_path / write_shard(tmp_path, 1, "v", 0, views).path)
    for name, view in views.items():
        np.testing.assert_array_equal(back[name], view)


def test_equal_arrays_give_an_equal_hash(tmp_path: Path) -> None:
    first = write_shard(tmp_path, 1, "v", 0, arrays(5, 0))
    reordered = dict(reversed(arrays(5, 0).items()))
    assert write_shard(tmp_path, 1, "v", 0, reordered) == first
    assert write_shard(tmp_path, 1, "v", 0, arrays(5, 1)) != first


@pytest.mark.parametrize("memory_limit", [1 << 20, 10])
def test_many_shards_read_as_one(tmp_path: Path, memory_limit: int) -> None:
    shards, contents = write_all(tmp_path, [4, 1, 0, 3])
    reader = ShardReader(tmp_path, shards, memory_limit=memory_limit, scratch=tmp_path)
    assert reader.rows == 8
    for name in ("ordinal", "perplexity"):
        np.testing.assert_array_equal(reader.column(name), np.concatenate([c[name] for c in contents]))
    matrix = reader.matrix("gradient")
    assert matrix.dtype == np.float16
    assert isinstance(matrix, np.memmap) == (memory_limit == 10)
    np.testing.assert_array_equal(matrix, np.concatenate([c["gradient"] for c in contents]))
    assert [(start, len(block)) for start, block in reader.blocks("gradient")] == [
        (0, 4),
        (4, 1),
        (5, 0),
        (5, 3),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["shards"]


@pytest.mark.parametrize("memory_limit", [1 << 20, 10])
def test_shards_of_unlike_precision_are_read_in_the_finer_one(tmp_path: Path, memory_limit: int) -> None:
    contents = [
        np.full((2, 3), 0.5, np.float16),
        np.full((1, 3), 1e6, np.float32),
        np.ones((2, 3), np.float16),
    ]
    shards = []
    for position, array in enumerate(contents):
        done = write_shard(tmp_path, 1, "v", position, {"attended": array})
        shards.append(Shard(1, "v", position, done.path, done.sha256, done.bytes, len(array)))
    reader = ShardReader(tmp_path, shards, memory_limit=memory_limit, scratch=tmp_path)
    found = reader.matrix("attended")
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, np.concatenate(contents))


def test_picked_rows_are_read_into_their_places(tmp_path: Path) -> None:
    shards, contents = write_all(tmp_path, [4, 1, 3])
    picks = [
        Pick(shards[0], np.array([1, 3]), np.array([2, 0])),
        Pick(shards[2], np.array([0]), np.array([1])),
    ]
    reader = ShardReader(tmp_path, [shards[0], shards[2]], picks=picks)
    expected = np.stack([contents[0]["gradient"][3], contents[2]["gradient"][0], contents[0]["gradient"][1]])
    np.testing.assert_array_equal(reader.matrix("gradient"), expected)
    assert reader.rows == 3


def test_a_shard_of_another_size_than_recorded_is_damaged(tmp_path: Path) -> None:
    (shard,), _ = write_all(tmp_path, [4])
    wrong = Shard(3, "signals", 0, shard.path, shard.sha256, shard.bytes, rows=5)
    with pytest.raises(DamagedError, match="has 4 rows of 'perplexity' instead of 5"):
        ShardReader(tmp_path, [wrong]).column("perplexity")


@pytest.mark.parametrize("cut", [0, 4, 100])
def test_a_cut_or_missing_shard_is_damaged(tmp_path: Path, cut: int) -> None:
    (shard,), _ = write_all(tmp_path, [4])
    path = tmp_path / shard.path
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DamagedError, match="arrays of a block of samples"):
        read_shard(path)
    path.unlink()
    with pytest.raises(DamagedError, match="arrays of a block of samples"):
        read_array(path, "ordinal")


def test_an_unknown_array_is_answered_with_those_there_are(tmp_path: Path) -> None:
    (shard,), _ = write_all(tmp_path, [4])
    with pytest.raises(StoreError, match="no array 'grad'; it has gradient, ordinal, perplexity"):
        read_array(tmp_path / shard.path, "grad")
    with pytest.raises(StoreError, match="no shards to read"):
        ShardReader(tmp_path, [])
