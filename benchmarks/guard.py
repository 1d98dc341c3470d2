"""How often the guard trips on noise, and how often on harm.

    python -m benchmarks.guard                     simulated evaluations: the noise is binomial, as the real one's
    python -m benchmarks.guard --real FOLDER       20 seeds of a real small stream that nothing poisons (minutes)

Simulated: skills of n eval items; each item has its own chance of being answered rightly, and training moves the model
without harm: each timestep an item's answer is drawn again with chance `churn`. "at the edge" is the hardest case that
is still no harm: every skill has really lost exactly `max_forgetting`. Real: a tiny LLaVA learns one skill from new
rows again and again, nothing is poisoned; the guard sees 40 eval items, and 400 others of the same kind tell what was
really lost: a trip is false where that is no more than `max_forgetting`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np

from policies.guards import Comparison, harm, harm_by_z, paired, unpaired

SEEDS, STREAMS = 20, 400
LEVEL, MARGIN = 0.05, 0.03


def simulated(
    rng: np.random.Generator,
    test: str,
    *,
    items: int,
    skills: int,
    timesteps: int,
    churn: float,
    lost: float,
    every: bool = False,
) -> list[bool]:
    """Verdicts on one stream, `lost` at its last timestep: on that one, or on every one."""
    chance = np.clip(
        rng.beta(2, 2, (skills, items)) if lost == 0 else rng.beta(4, 2, (skills, items)), 0.02, 0.98
    )
    now = rng.random((skills, items)) < chance
    history, trips = [now.astype(float)], []
    for timestep in range(1, timesteps + 1):
        again = rng.random((skills, items)) < churn
        gone = lost / chance.mean() if timestep == timesteps else 0.0
        fresh = (rng.random((skills, items)) < chance) & (rng.random((skills, items)) >= gone)
        kept = now & (rng.random((skills, items)) >= gone)
        now = np.where(again, fresh, kept)
        if every or timestep == timesteps:
            family = [
                _compare(was[s], now[s].astype(float), test, str(s)) for was in history for s in range(skills)
            ]
            p, _ = harm(family, MARGIN, rng, 1000) if test == "paired" else harm_by_z(family, MARGIN)
            trips.append(p < LEVEL)
        history.append(now.astype(float))
    return trips


def _compare(before: np.ndarray, after: np.ndarray, test: str, skill: str) -> Comparison:
    if test == "paired":
        return paired(before, after, skill)
    n = len(before)
    errors = [float(each.std(ddof=1)) / n**0.5 for each in (before, after)]
    return unpaired(float(before.mean()), float(after.mean()), *errors)


def simulate(streams: int) -> None:
    """Shares of judgements (and of streams) that trip, for some sizes."""
    cases = {"no harm": 0.0, "at the edge": MARGIN, "harm of 10 points": 0.10, "harm of 20 points": 0.20}
    shape = {"skills": 4, "timesteps": 5, "churn": 0.2}
    print(
        f"level {LEVEL}, max_forgetting {MARGIN}; {streams} streams of {shape}; share of last judgements that trip"
    )
    names = [f"{test}, n={items}" for test in ("paired", "z") for items in (40, 80, 500)]
    print(f"{'':<20}" + "".join(f"{name:>16}" for name in names))
    for name, lost in cases.items():
        cells = []
        for test in ("paired", "z"):
            for items in (40, 80, 500):
                rng = np.random.default_rng(items)
                trips = [simulated(rng, test, items=items, lost=lost, **shape)[-1] for _ in range(streams)]
                cells.append(f"{100 * np.mean(trips):14.2f} %")
        print(f"{name:<20}" + "".join(cells), flush=True)
    for lost in (0.0, MARGIN):
        found = [
            simulated(np.random.default_rng(seed), "paired", items=80, lost=lost, every=True, **shape)
            for seed in range(SEEDS)
        ]
        false, judged = sum(map(sum, found)), sum(map(len, found))
        print(
            f"{SEEDS} seeds, n=80, paired, {100 * lost:.0f} points lost at the end: {false} of {judged} tripped"
        )


def real(folder: Path, seeds: range, timesteps: int) -> None:
    """The guard over seeds of a real stream without poison."""
    from lifelong import Run
    from lifelong.errors import GuardError
    from tests.steer.taste import EVALS, SETTINGS, rows, write
    from tests.tiny_models import build

    model = build("llava", folder / "model")
    small, large = (write(folder / f"{n}.json", rows("taste", 90 + n, n)) for n in (EVALS, 400))
    train = {**SETTINGS["train"], "epochs": 4}
    guard = {"max_forgetting": MARGIN, "level": LEVEL, "protect": ["taste"]}
    judged = tripped = false = 0
    for seed in seeds:
        config = {**SETTINGS, "seed": seed, "guard": guard, "train": train}
        run = Run.create(folder / f"run-{seed}", model=str(model), recipe="random-replay", config=config)
        run.feed(write(folder / "first.json", rows("taste", 7, 8)), skill="taste large", eval=large)
        for timestep in range(2, timesteps + 2):
            part = write(folder / f"{seed}-{timestep}.json", rows("taste", 1000 * seed + timestep, 64))
            judged += 1
            try:
                run.feed(part, skill="taste", eval=small)
            except GuardError:
                tripped += 1
                really = run.skill_matrix()
                lost = float(really.forgetting[really.skills.index("taste large")])
                false += lost <= MARGIN
                print(
                    f"seed {seed}, timestep {timestep}: tripped; really lost {100 * lost:.1f} points",
                    flush=True,
                )
                run.accept()
        told = [[round(value, 3) for value in row] for row in run.skill_matrix().R.T.tolist()]
        print(f"seed {seed}: {dict(zip(run.skill_matrix().skills, told, strict=True))}", flush=True)
    print(
        f"seeds {seeds.start} to {seeds.stop - 1}: {judged} judgements, {tripped} trips, {false} of them false"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--streams", type=int, default=STREAMS)
    parser.add_argument("--real", type=Path)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument(
        "--first", type=int, default=0, help="first seed, so that a study can be done in parts"
    )
    parser.add_argument("--timesteps", type=int, default=4)
    given = parser.parse_args()
    if given.real is None:
        simulate(given.streams)
    else:
        given.real.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=given.real) as name:
            real(Path(name), range(given.first, given.first + given.seeds), given.timesteps)
