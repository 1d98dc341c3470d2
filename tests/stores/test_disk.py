from __future__ import annotations

import errno
import sqlite3
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors import SafetensorError
from safetensors.numpy import save_file

from stores.disk import naming_database_faults, naming_faults, naming_faults_under
from stores.errors import DiskError
from stores.space import require_space

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(
    not FULL.exists(), reason="no /dev/full, Linux's file on which every write fails"
)


def write_by_arrow(path: Path) -> None:
    with pa.OSFile(str(path), "wb") as file:
        file.write(b"x")


def write_bytes(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"x")


@needs_full
@pytest.mark.parametrize("write", [write_by_arrow, write_bytes])
def test_a_full_disk_is_told_with_the_path_and_the_fix(write) -> None:
    told = r"^run/decisions: No space left on device\. Free space on that disk; .*`lifelong resume RUN`"
    with pytest.raises(DiskError, match=told), naming_faults(Path("run/decisions")):
        write(FULL)


def test_what_is_not_the_disks_fault_stays_what_it_is(tmp_path: Path) -> None:
    absent = tmp_path / "absent"
    with pytest.raises(FileNotFoundError), naming_faults(tmp_path):
        absent.read_bytes()
    with pytest.raises(SafetensorError), naming_faults(tmp_path):
        save_file({"a": np.zeros(1)}, absent / "file")
    with pytest.raises(OSError, match="elsewhere"), naming_faults_under(tmp_path):
        raise OSError(errno.EIO, "broken", "/elsewhere/file")
    connection = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError, match="no such table"), naming_database_faults(tmp_path):
        connection.execute("SELECT 1 FROM absent")
    connection.close()


def test_a_fault_of_a_file_in_the_folder_names_the_file(tmp_path: Path) -> None:
    told = r"inner/file: Input/output error\. Check the disk"
    with pytest.raises(DiskError, match=told), naming_faults_under(tmp_path):
        raise OSError(errno.EIO, "broken", str(tmp_path / "inner/file"))


def test_a_database_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    path = tmp_path / "run.db"
    sqlite3.connect(path).execute("CREATE TABLE a (b)").connection.close()
    connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)
    told = r"run\.db \(pool and ledger of the run\): attempt to write a readonly database\. Allow this user"
    with pytest.raises(DiskError, match=told), naming_database_faults(path):
        connection.execute("INSERT INTO a VALUES (1)")
    connection.close()


def test_space_is_asked_of_the_folders_own_disk(tmp_path: Path) -> None:
    require_space(tmp_path, 1, "a byte")
    with pytest.raises(
        DiskError, match=r"an exabyte of zeros needs about 1,000,000,000,000\.0 MB and its disk has"
    ):
        require_space(tmp_path, 10**18, "an exabyte of zeros")
