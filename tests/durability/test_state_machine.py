"""A run against a dictionary: whatever is done to it, in whatever order, wherever it dies, both tell the same story.

The run is a real one, with its database, files and phases, on a recipe that asks nothing of a model: training and
tests are left out. It dies by being thrown away: what its folder held at that instant is all that the next one has.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from PIL import Image

from lifelong import Run, loop
from lifelong.config import RunConfig, budget_of
from lifelong.context import Context, ModelHolder, Outcome
from lifelong.errors import InputError, RunError
from lifelong.export.samples import export
from lifelong.formats import open_dataset
from lifelong.loader import CarriedLoader
from lifelong.oneshot.select import select
from lifelong.samples import content_id
from policies import registry
from stores.fsck import check_files
from tests.durability.scenario import LONG

RECIPE = {"recipe": "random", "prune": "random"}
DURABLE = ("fsync", "replace", "rename", "link", "unlink", "mkdir")
UNREADABLE = "this one cannot be read"

# (kind, number): of a text, of a text with a picture, of a text that no processor takes, of a row that is refused.
rows_to_feed = st.lists(
    st.tuples(st.sampled_from(("text", "text", "picture", "unreadable", "bad")), st.integers(0, 40)),
    min_size=1,
    max_size=12,
)
# The operation at which the run dies; beyond its last it lives.
deaths = st.one_of(st.none(), st.integers(0, 60), st.integers(0, 700))


def picture(number: int) -> str:
    return f"picture-{number % 3}.png"


def content(kind: str, number: int) -> dict[str, Any]:
    text = {"bad": "", "unreadable": f"{UNREADABLE} {number}"}.get(kind, f"{kind} {number}")
    shown = [picture(number)] if kind == "picture" else []
    turns = [("user", "<image>" * len(shown) + text), ("assistant", "yes")]
    return {"images": shown, "messages": [{"role": role, "content": words} for role, words in turns]}


@dataclass
class Feeding:
    """A dataset that is under way: what is known of its timestep beforehand."""

    path: Path
    timestep: int
    rows: Counter[str]
    accepted: list[str]
    unreadable: set[str]
    config: RunConfig


@dataclass
class Story:
    """What must be true of the run. fate: sample_id → live, pruned or quarantined; fed: the timesteps, in order."""

    fate: dict[str, str] = field(default_factory=dict)
    fed: list[Feeding] = field(default_factory=list)
    under_way: Feeding | None = None

    def having(self, fate: str) -> set[str]:
        return {sample for sample, found in self.fate.items() if found == fate}


class Life(RuleBasedStateMachine):
    """Feeds, deaths and what goes between, with the story beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="life-"))
        self.numbers = itertools.count()
        self.hashes = {}
        for number in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (80 * number, 0, 0)).save(buffer, "PNG")
            (self.folder / picture(number)).write_bytes(buffer.getvalue())
        config = {"measure": {"shard_size": 1000}, "train": {"budget": "50%"}, "pool": {"keep": 12}}
        self.run = Run.create(self.folder / "run", recipe=RECIPE, config=config)
        self.story = Story()

    def teardown(self) -> None:
        with self.run.reading() as stores:
            damaged = [found for found in check_files(stores.db, self.run.root) if found.kind == "damaged"]
        assert damaged == []
        shutil.rmtree(self.folder)

    @rule(rows=rows_to_feed, death=deaths)
    def feed(self, rows: list[tuple[str, int]], death: int | None) -> None:
        path = self.folder / f"fed-{next(self.numbers)}.json"
        path.write_text(json.dumps([content(*row) for row in rows]))
        if self.story.under_way is not None:
            before = self.database()
            with pytest.raises(RunError, match="unfinished"):
                self.run.feed(path)
            assert self.database() == before
            return
        feeding = self.foresee(path, rows)
        if not feeding.accepted or set(feeding.accepted) <= feeding.unreadable:
            # Nothing new; or nothing that can be read, which is a fault of the model and stops the run.
            if not feeding.accepted:
                self.refused(path, "nothing new|none of its . rows can be used")
            return
        with self.dying(death):
            self.run.feed(path)
        self.catch_up(feeding)

    @precondition(lambda self: self.story.fed and self.story.under_way is None)
    @rule(data=st.data())
    def feed_the_same_file_again(self, data: st.DataObject) -> None:
        self.refused(data.draw(st.sampled_from([each.path for each in self.story.fed])), "nothing new")

    @precondition(lambda self: self.story.under_way is None)
    @rule(rows=rows_to_feed)
    def feed_a_broken_file(self, rows: list[tuple[str, int]]) -> None:
        path = self.folder / f"fed-{next(self.numbers)}.json"
        path.write_text(json.dumps([content(*row) for row in rows])[:-1])
        self.refused(path, "cut off")

    @precondition(lambda self: self.story.under_way is not None)
    @rule(death=deaths)
    def resume(self, death: int | None) -> None:
        feeding = self.story.under_way
        with self.dying(death):
            assert self.run.resume()
        self.story.under_way = None
        self.catch_up(feeding)

    @rule()
    def reopen(self) -> None:
        before = self.run.digest(), self.run.status()["phase"]
        self.run = Run.open(self.run.root)
        assert (self.run.digest(), self.run.status()["phase"]) == before
        if self.story.under_way is None:
            assert not self.run.resume()

    @precondition(lambda self: self.story.under_way is None)
    @rule(death=deaths)
    def collect_garbage(self, death: int | None) -> None:
        before = self.run.digest()
        with self.dying(death):
            self.run.gc()
        assert self.run.digest() == before

    @rule(budget=st.sampled_from(("4%", "30%", "100%", "3", "9")), keep=st.sampled_from((0, 1, 5, 20)))
    def configure(self, budget: str, keep: int) -> None:
        path = self.run.root / "config.yaml"
        values = yaml.safe_load(path.read_text())
        values["train"]["budget"], values["pool"]["keep"] = budget, keep
        path.unlink()
        path.write_text(yaml.safe_dump(values))

    @precondition(lambda self: self.story.fed and self.story.under_way is None)
    @rule(data=st.data(), format=st.sampled_from(("llava", "sharegpt", "jsonl", "parquet")))
    def export(self, data: st.DataObject, format: str) -> None:
        timestep = data.draw(st.one_of(st.none(), st.integers(1, len(self.story.fed))))
        out = self.folder / f"out-{next(self.numbers)}" / "train"
        with self.run.reading() as stores:
            ordinals = (
                stores.pool.arrays()["ordinal"] if timestep is None else stores.ledger.selection(timestep)
            )
            chosen = list(stores.pool.rows(ordinals))
            expected = [row.sample_id for row in chosen]
            if not expected:
                return
            if any(not stores.media.knows(image) for row in chosen for image in row.images):
                with pytest.raises(InputError, match=r"was pruned at timestep .* gone since `lifelong gc`"):
                    export(stores, out, format, timestep)
                assert any(row.status == "pruned" for row in chosen)
                return
            assert export(stores, out, format, timestep) == len(expected)
        rows = list(open_dataset(out, format=format).rows())
        assert [row.sample.sample_id for row in rows if row.sample] == expected
        if timestep is None:
            assert set(expected) == self.story.having("live")

    @precondition(lambda self: self.story.fed)
    @rule(data=st.data(), budget=st.integers(1, 12))
    def select_from_a_dataset(self, data: st.DataObject, budget: int) -> None:
        path = data.draw(st.sampled_from([each.path for each in self.story.fed]))
        accepted = [row for row in open_dataset(path).rows() if row.outcome == "accepted"]
        readable = sum(UNREADABLE not in str(row.raw) for row in accepted)
        config = RunConfig.model_validate({"recipe": RECIPE, "train": {"budget": str(budget)}})
        out = self.folder / f"selected-{next(self.numbers)}.json"
        before = self.database()
        if budget > readable:
            with pytest.raises(InputError):
                select(path, out, config)
        else:
            assert select(path, out, config).selected == budget
            chosen = [
                row.sample.sample_id for row in open_dataset(out, images=self.folder).rows() if row.sample
            ]
            assert len(set(chosen)) == budget
            assert set(chosen) <= {row.sample.sample_id for row in accepted if row.sample}
        assert self.database() == before

    @invariant()
    def every_sample_has_one_state_and_one_reason(self) -> None:
        fate, feeding = dict(self.story.fate), self.story.under_way
        with self.run.reading() as stores:
            done = {record.phase for record in stores.ledger.phases(feeding.timestep)} if feeding else set()
            if feeding and "ingest" in done:
                fate |= dict.fromkeys(feeding.accepted, "live")
            if feeding and "measure" in done:
                fate |= dict.fromkeys(feeding.unreadable, "quarantined")
            found = list(stores.pool.rows(range(stores.pool.counts()["arrived"])))
            assert Counter(row.sample_id for row in found) == Counter(fate.keys())
            assert {row.sample_id: row.status for row in found} == fate
            assert all(bool(row.reason) == (row.status != "live") for row in found)
            refusals = Counter(refusal.outcome for refusal in stores.pool.refusals())
            assert all(refusal.reason and refusal.fix for refusal in stores.pool.refusals())
        fed = [each.rows for each in [*self.story.fed, *([feeding] if "ingest" in done else [])]]
        assert refusals == Counter(
            {name: count for name in ("rejected", "duplicate") if (count := sum(rows[name] for rows in fed))}
        )

    def foresee(self, path: Path, rows: list[tuple[str, int]]) -> Feeding:
        counts, accepted, unreadable = Counter(), [], set()
        for kind, number in rows:
            sample = self.sample_id(kind, number)
            if kind == "bad":
                counts["rejected"] += 1
            elif sample in self.story.fate or sample in accepted:
                counts["duplicate"] += 1
            else:
                accepted.append(sample)
                unreadable |= {sample} if kind == "unreadable" else set()
        return Feeding(path, len(self.story.fed) + 1, counts, accepted, unreadable, self.run.config)

    def sample_id(self, kind: str, number: int) -> str:
        (user, assistant), shown = content(kind, number)["messages"], content(kind, number)["images"]
        text = {"type": "text", "text": user["content"].removeprefix("<image>")}
        parts = [{"type": "image"}] * len(shown) + [text]
        messages = [{"role": "user", "content": parts}]
        messages.append({"role": "assistant", "content": [{"type": "text", "text": assistant["content"]}]})
        return content_id(messages, [sha256(self.folder / name) for name in shown])

    def refused(self, path: Path, reason: str) -> None:
        before = self.database()
        with pytest.raises(InputError, match=reason):
            self.run.feed(path)
        assert self.database() == before

    def database(self) -> list[str]:
        """What the run holds, but for the key of what is being fed, which a refused feed leaves empty."""
        connection = sqlite3.connect(f"file:{self.run.root / 'lifelong.sqlite'}?mode=ro", uri=True)
        try:
            tables = ("samples", "contents", "refusals", "datasets", "phases", "files", "selections", "media")
            return [str(connection.execute(f"SELECT * FROM {table}").fetchall()) for table in tables]
        finally:
            connection.close()

    @contextmanager
    def dying(self, death: int | None) -> Iterator[None]:
        """Let the run go on from what its folder held before operation `death`, if it comes to that."""
        if death is None:
            yield
            return
        image = self.folder / "image"
        with before_operation(death, lambda: shutil.copytree(self.run.root, image)):
            yield
        if image.exists():
            shutil.rmtree(self.run.root)
            image.rename(self.run.root)
            self.run = Run.open(self.run.root)

    def catch_up(self, feeding: Feeding) -> None:
        """Tell the story on from where the run is now: before the feed, under way, or after it."""
        with self.run.reading() as stores:
            done = {record.phase for record in stores.ledger.phases(feeding.timestep)}
        if set(loop.PHASES) <= done:
            self.end(feeding)
        elif done or self.run.status()["phase"] is not None:
            self.story.under_way = feeding

    def end(self, feeding: Feeding) -> None:
        """A timestep is over: its figures add up, and what is pruned is gone for good."""
        story, timestep = self.story, feeding.timestep
        story.fed.append(feeding)
        story.fate |= dict.fromkeys(feeding.accepted, "live") | dict.fromkeys(
            feeding.unreadable, "quarantined"
        )
        held = story.having("live")
        with self.run.reading() as stores:
            results = {record.phase: record.result for record in stores.ledger.phases(timestep)}
            config = results["train"]["config"]
            chosen = stores.ledger.selection(timestep).tolist()
            selected = [row.sample_id for row in stores.pool.rows(chosen)]
            pruned = {row.sample_id for row in stores.pool.rows(stores.pool.arrays("pruned")["ordinal"])}
            dataset = stores.pool.datasets()[-1]
        assert (
            dataset.rows
            == dataset.accepted + dataset.rejected + dataset.duplicates
            == feeding.rows.total() + len(feeding.accepted)
        )
        assert (dataset.timestep, dataset.accepted) == (timestep, len(feeding.accepted))
        assert (
            len(selected)
            == len(set(selected))
            == min(len(held), budget_of(config["budget"], dataset.accepted))
        )
        assert set(selected) <= held
        fresh = pruned - story.having("pruned")
        assert story.having("pruned") < pruned or not fresh
        assert fresh <= held
        assert len(held - fresh) == min(len(held), config["keep"] or len(held))
        story.fate |= dict.fromkeys(fresh, "pruned")
        self.check_decisions(timestep, held | feeding.unreadable, set(selected), fresh)

    def check_decisions(self, timestep: int, samples: set[str], selected: set[str], pruned: set[str]) -> None:
        with self.run.reading() as stores:
            table = pq.read_table(stores.ledger.file(timestep, "decisions")).to_pylist()
        assert Counter(row["sample_id"] for row in table) == Counter(samples)
        assert all(row["reason"] for row in table)
        assert {row["sample_id"] for row in table if row["selected"]} == selected
        assert {row["sample_id"] for row in table if row["pruned"]} == pruned
        assert all(("pruned: " in row["reason"]) == row["pruned"] for row in table)


def sha256(path: Path) -> str:
    import hashlib

    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def before_operation(number: int, act: Callable[[], Any]) -> Iterator[None]:
    """Call `act` once, before the `number`-th durable operation or SQL statement inside the block."""
    count = itertools.count()

    def tick(*_: object) -> None:
        if next(count) == number:
            patch.undo()
            act()

    def around(real: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            tick()
            return real(*arguments, **options)

        return wrapped

    connect = sqlite3.connect

    def traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(tick)
        return connection

    with pytest.MonkeyPatch.context() as patch:
        for name in DURABLE:
            patch.setattr(os, name, around(getattr(os, name)))
        patch.setattr(sqlite3, "connect", traced)
        yield


@pytest.fixture(autouse=True)
def without_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training and tests leave their commits and nothing else; some samples cannot be read."""

    def train(context: Context) -> Outcome:
        told = {"budget": context.config.train.budget, "keep": context.config.pool.keep}
        return Outcome({"samples": 0, "steps": 0, "loss": None, "skipped": [], "split": 0, "config": told})

    def untested(context: Context) -> Outcome:
        return Outcome({"skills": {}})

    conversation = CarriedLoader.conversation

    def reading(self: CarriedLoader, item: Any) -> Any:
        if UNREADABLE in str(item.messages):
            raise ValueError("no processor takes it")
        return conversation(self, item)

    # Words are looked up among all that is installed, which takes longer than a timestep does here.
    monkeypatch.setattr(registry, "entry_points", cache(registry.entry_points))
    monkeypatch.setitem(loop.PHASES, "train", train)
    monkeypatch.setitem(loop.PHASES, "evaluate", untested)
    monkeypatch.setattr(loop, "start", untested)
    monkeypatch.setattr(ModelHolder, "vlm", None)
    monkeypatch.setattr(CarriedLoader, "conversation", reading)


@pytest.mark.parametrize(
    ("runs", "steps"),
    [pytest.param(8, 25, id="some"), pytest.param(200, 50, id="long", marks=LONG)],
)
def test_a_run_and_a_dictionary_tell_the_same_story(runs: int, steps: int) -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=runs,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.fixture
def life() -> Iterator[Life]:
    life = Life()
    yield life
    life.teardown()


def test_a_feed_that_died_before_anything_of_it_was_committed_is_resumed(
    life: Life, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(context: Context) -> Outcome:
        raise KeyboardInterrupt

    life.feed([("text", 1)], None)
    with monkeypatch.context() as patch:
        patch.setitem(loop.PHASES, "ingest", stopped)
        with pytest.raises(KeyboardInterrupt):
            life.feed([("text", 2)], None)
    life.run = Run.open(life.run.root)
    assert life.run.resume()
    assert [dataset.timestep for dataset in datasets(life.run)] == [1, 2]


def test_a_selection_whose_images_were_collected_says_so(life: Life) -> None:
    life.configure("100%", 1)
    life.feed([("picture", number) for number in range(3)], None)
    life.run.gc()
    with life.run.reading() as stores, pytest.raises(InputError, match="gone since `lifelong gc`"):
        export(stores, life.folder / "out.json", "llava", 1)


def datasets(run: Run) -> list[Any]:
    with run.reading() as stores:
        return stores.pool.datasets()
