"""Fuzzing of every reader: `python -m tests.durability.fuzz --cases 200000`, or `make fuzz`.

Whatever a dataset holds, its reader must end, in time, with nothing but declared errors; tell of every row exactly
once with a reason and a fix; and open nothing outside of the dataset and its image root. Cases are drawn from
(seed, number), so that any of them can be looked at again with `--start N --cases 1`, and a run goes on with `--start`.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from lifelong.formats import DatasetError, open_dataset, to_rgb
from lifelong.samples import Row, content_id
from stores.text import to_json
from tests.durability.fuzz_cases import SECRET, Case, make_case, picture

SECONDS_A_ROW = 1.0
SECONDS_A_CASE = 60.0
"""After which the process is taken to hang. A row is measured in time of its own processor."""
MESSAGE_CHARS = 20_000
BLOCK = 250
FORBIDDEN = (
    "pickle.find_class",
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "socket.connect",
    "socket.getaddrinfo",
)


@dataclass(slots=True)
class Tally:
    """What became of cases. faults: (number of the case, what is wrong)."""

    cases: int = 0
    rows: int = 0
    slowest: float = 0.0
    slowest_case: int = -1
    outcomes: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[int, str]] = field(default_factory=list)
    silent: int = 0

    def add(self, other: Tally) -> None:
        self.cases += other.cases
        self.rows += other.rows
        if other.slowest > self.slowest:
            self.slowest, self.slowest_case = other.slowest, other.slowest_case
        for name, count in other.outcomes.items():
            self.outcomes[name] = self.outcomes.get(name, 0) + count
        self.faults += other.faults
        self.silent += other.silent


class _Watch:
    """Notes what Python opens outside of a folder, and what it runs, while it is on. A hook is for life: one does."""

    def __init__(self) -> None:
        self.folder = ""
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    @contextmanager
    def over(self, folder: Path) -> Iterator[list[str]]:
        self.seen = []
        self.folder = os.path.realpath(folder)
        try:
            yield self.seen
        finally:
            self.folder = ""

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder:
            return
        if event in FORBIDDEN:
            self.seen.append(f"{event} {arguments[:2]!r}")
        elif event == "open" and isinstance(arguments[0], (str, bytes)):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            if not (path + "/").startswith(self.folder + "/") and not _is_code(path):
                self.seen.append(f"opened {path}")


def _is_code(path: str) -> bool:
    """Modules that are imported late, and what they read of their own packages."""
    libraries = (sys.prefix, sys.base_prefix, os.path.dirname(os.__file__), os.getcwd())
    return path.startswith((*libraries, "/proc/sys/", "/usr/share/zoneinfo/"))


_watch: list[_Watch] = []


def judge(case: Case) -> tuple[dict[str, int], float, list[str]]:
    """Read a case: counts of its outcomes, seconds of its slowest row, and what is wrong with its reading."""
    if not _watch:
        _watch.append(_Watch())
    rows: list[Row] = []
    slowest, wrong = 0.0, []
    with _watch[0].over(case.images) as seen:
        began = time.process_time()
        try:
            for row in open_dataset(case.path, images=case.images, format=case.told).rows():
                now = time.process_time()
                slowest, began = max(slowest, now - began), now
                rows.append(row)
        except DatasetError as error:
            if not str(error) or len(str(error)) > MESSAGE_CHARS:
                wrong.append(f"DatasetError of {len(str(error))} characters")
        except BaseException as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(f"{type(error).__name__} at {where.filename}:{where.lineno}: {str(error)[:200]}")
        else:
            wrong += _wrong_count(rows, case)
    wrong += [fault for row in rows for fault in _wrong_row(row, case)] + seen
    outcomes = {name: sum(_outcome(row) == name for row in rows) for name in {_outcome(row) for row in rows}}
    return outcomes, slowest, wrong


def _outcome(row: Row) -> str:
    return "faulty file" if row.row is None else row.outcome


def _wrong_count(rows: list[Row], case: Case) -> list[str]:
    numbers = [row.row for row in rows if row.row is not None]
    wrong = [] if rows else ["neither a row nor a fault"]
    if numbers != list(range(len(numbers))):
        wrong.append(f"rows numbered {numbers[:20]}")
    if any(row.row is None for row in rows[:-1]):
        wrong.append("rows after the fault of their file")
    known = case.rows is not None and case.told == case.format
    if known and not any(row.row is None for row in rows) and len(numbers) != case.rows:
        wrong.append(f"{len(numbers)} outcomes for {case.rows} rows")
    return wrong


def _wrong_row(row: Row, case: Case) -> list[str]:
    """What is wrong with what is told of a row."""
    wrong = []
    told = (row.reason, row.fix)
    if row.outcome not in ("accepted", "rejected", "duplicate"):
        wrong.append(f"outcome {row.outcome!r}")
    if any(bool(text) == (row.outcome == "accepted") for text in told):
        wrong.append(f"{row.outcome} with reason {row.reason!r} and fix {row.fix!r}")
    if (row.sample is None) != (row.outcome == "rejected") or bool(row.of) != (row.outcome == "duplicate"):
        wrong.append(f"{row.outcome} with sample {row.sample!r} of {row.of!r}")
    for text in (*told, row.file, row.source_id or ""):
        if len(text) > MESSAGE_CHARS or not _printable(text):
            wrong.append(f"text of {len(text)} characters that cannot be shown: {text[:80]!a}")
    if row.sample is not None:
        wrong += _wrong_sample(row, case)
    return wrong


def _printable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _wrong_sample(row: Row, case: Case) -> list[str]:
    """A sample must be what its row says, come from inside, and be fit for the store and the model."""
    assert row.sample is not None
    sample, wrong = row.sample, []
    root = os.path.realpath(case.images)
    if sample.sample_id != content_id(sample.messages, [image.sha256 for image in sample.images]):
        wrong.append("sample_id is not that of its content")
    for image in sample.images:
        data = image.read()
        if image.path is not None and not os.path.realpath(image.path).startswith(root + "/"):
            wrong.append(f"image {image.path} from outside")
        if hashlib.sha256(data).hexdigest() != image.sha256 or to_rgb(data).size != (
            image.width,
            image.height,
        ):
            wrong.append(f"image {image.sha256} is not what is told of it")
        if data == picture("PNG", 99):
            wrong.append("the secret picture was read")
    if SECRET in to_json(sample.messages):
        wrong.append("the secret text was read")
    return wrong


Judge = Callable[[Case], tuple[dict[str, int], float, list[str]]]


def run_cases(
    start: int, stop: int, seed: int, scratch: Path, judge: Judge = judge, report: Connection | None = None
) -> Tally:
    """Judge cases start … stop - 1; with `report`, send each one's tally as soon as it is known."""
    whole = Tally()
    for number in range(start, stop):
        folder = scratch / f"case-{number}"
        case = make_case(folder, number, seed)
        outcomes, slowest, wrong = judge(case)
        shutil.rmtree(folder)
        faults = [(number, f"{case.format}: {fault}") for fault in dict.fromkeys(wrong)]
        tally = Tally(1, sum(outcomes.values()), slowest, number, outcomes, faults)
        whole.add(tally)
        if report is not None:
            report.send(tally)
    return whole


def _worker(start: int, stop: int, seed: int, scratch: Path, judge: Judge, report: Connection) -> None:
    warnings.simplefilter("ignore")  # Pillow's, on what is damaged
    logging.disable()
    run_cases(start, stop, seed, scratch, judge, report)
    report.close()


def watched(
    start: int, stop: int, seed: int, judge: Judge = judge, patience: float = SECONDS_A_CASE
) -> Tally:
    """As `run_cases`, in a process of its own: one that dies, or is silent for `patience` s, is a fault of its case.

    Machines pause: a case that is silent is tried once more, and counted in `silent`.
    """
    whole, number, tried = Tally(), start, -1
    # Forked from a process without threads: the locks of another one's threads would stay locked for good.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.durability.fuzz_cases"])
    while number < stop:
        scratch = Path(tempfile.mkdtemp(prefix="fuzz-"))
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_worker, args=(number, stop, seed, scratch, judge, theirs))
        process.start()
        theirs.close()
        try:
            while ours.poll(patience):
                whole.add(ours.recv())
                number += 1
            process.kill()
            whole.silent += 1
            again, tried = tried != number, number
            fault = f"no end within {patience:.0f} s"
        except EOFError:
            process.join()
            again = False
            fault = f"the process ended with {process.exitcode}"
        process.join()
        shutil.rmtree(scratch)
        if number < stop and not again:
            whole.add(Tally(1, faults=[(number, fault)]))
            number += 1
    return whole


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=200_000)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    stop = options.start + options.cases
    blocks = [
        (number, min(number + BLOCK, stop), options.seed) for number in range(options.start, stop, BLOCK)
    ]
    whole, began = Tally(), time.monotonic()
    with multiprocessing.pool.ThreadPool(options.processes) as pool:
        for done, tally in enumerate(pool.imap(lambda block: watched(*block), blocks), 1):
            whole.add(tally)
            for number, fault in tally.faults:
                print(f"case {number}: {fault}", flush=True)
            if done % 20 == 0 or done == len(blocks):
                seconds = time.monotonic() - began
                print(
                    f"{whole.cases} cases, {whole.rows} rows, {len(whole.faults)} faults, {whole.silent} silences, "
                    f"slowest row {whole.slowest:.3f} s (case {whole.slowest_case}), {seconds:.0f} s; "
                    f"go on with --seed {options.seed} --start {options.start + whole.cases}",
                    flush=True,
                )
    print(", ".join(f"{count} {name}" for name, count in sorted(whole.outcomes.items())))
    slow = whole.slowest > SECONDS_A_ROW
    if slow:
        print(
            f"case {whole.slowest_case}: a row took {whole.slowest:.2f} s, the limit is {SECONDS_A_ROW:.0f} s"
        )
    return 1 if whole.faults or slow else 0


if __name__ == "__main__":
    import multiprocessing.pool

    sys.exit(main())
