"""Everything that a page tells of a run, and all that its script draws, within the room that there is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Protocol

from lifelong.account.routes import routes
from lifelong.context import Stores
from lifelong.report.absent import Absent
from lifelong.report.decided import Decided, decided, finished
from lifelong.report.maps import Map, draw_map
from lifelong.report.now import now
from lifelong.report.pairs import Pair, pairs_of
from lifelong.report.pictures import Links, Pictures, text_of
from lifelong.report.scores import Distribution, distributions
from lifelong.report.settings import costs, in_all, settings
from lifelong.report.standing import KINDS_OF_REFUSAL, intakes, refusals, standing
from lifelong.steer.history import foretold, history

POINTS = 12_000
"""Samples on all maps together."""
POINTS_OF_A_MAP = 2_000
"""More are not told apart on a screen, and make it slow."""
TIMESTEPS = 100
"""The last so many timesteps have maps, routing tables, scores and pairs."""
PAIRS = 48
CLUSTERS = 2_000
"""Rows of all routing tables together."""
ROOM_OF_THUMBNAILS = 3_000_000
ROOM_OF_PAIRS = 1_500_000


class Kind(Protocol):
    """How a page is put together. share: of the samples and pictures that it would have room for at most."""

    share: float
    served: bool

    def thumbnails(self, stores: Stores) -> Pictures | Links:
        """Pictures of the samples on the maps."""

    def beside(self, stores: Stores) -> Pictures | Links:
        """Pictures of the near-duplicates."""

    def map_of(self, stores: Stores, found: Decided, points: int) -> Map:
        """The map of a timestep, of at most so many samples. Raises: AbsentError saying why there is none."""


@dataclass(slots=True)
class Whole:
    """A page that has everything in itself."""

    share: float = 1.0
    served: bool = False

    def thumbnails(self, stores: Stores) -> Pictures | Links:
        return Pictures(stores, 96, int(ROOM_OF_THUMBNAILS * self.share), repeated=False)

    def beside(self, stores: Stores) -> Pictures | Links:
        return Pictures(stores, 200, int(ROOM_OF_PAIRS * self.share), repeated=True)

    def map_of(self, stores: Stores, found: Decided, points: int) -> Map:
        return draw_map(stores, found, points)


def gather(stores: Stores, kind: Kind) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the template tells and what the page's script draws."""
    done = finished(stores)
    shown = done[-TIMESTEPS:]
    absent = Absent()
    maps, scores, pairs = _decided(stores, shown, kind, absent)
    thumbnails = kind.thumbnails(stores)
    kinds, arrived, spent = refusals(stores), intakes(stores), costs(stores)
    told = {
        "now": now(stores),
        "standing": standing(stores),
        "finished": done,
        "shown": shown,
        "intakes": arrived,
        "refusals": kinds[:KINDS_OF_REFUSAL],
        "refusals_left": kinds[KINDS_OF_REFUSAL:],
        "maps": maps,
        "routes": _routes(stores, shown, absent),
        "scores": scores,
        "pairs": pairs,
        "costs": spent,
        "spent": in_all(spent),
        "steered": history(stores),
        "foretold": foretold(stores),
        "settings": settings(stores, done),
        "absent": absent.told(),
    }
    data = {
        "maps": [asdict(each) for each in maps],
        **_samples(stores, maps, thumbnails),
        "scores": [asdict(each) for each in scores],
        "pool": [asdict(each) for each in arrived],
        "costs": [asdict(each) for each in spent],
    }
    return told, data


def _decided(
    stores: Stores, timesteps: list[int], kind: Kind, absent: Absent
) -> tuple[list[Map], list[Distribution], list[Pair]]:
    """What follows from the decisions of each timestep."""
    maps: list[Map] = []
    scores: list[Distribution] = []
    pairs: list[Pair] = []
    beside = kind.beside(stores)
    count = max(len(timesteps), 1)
    points = POINTS_OF_A_MAP
    while points * count > POINTS * kind.share:
        # By halves, so that a page that grows draws its earlier maps anew only now and then.
        points //= 2
    in_pairs = max(2, min(8, PAIRS // count))
    for timestep in timesteps:
        with absent.noting(timestep, "maps", "scores", "pairs"):
            found = decided(stores, timestep)
            with absent.noting(timestep, "maps"):
                maps.append(kind.map_of(stores, found, points))
            with absent.noting(timestep, "scores"):
                scores += distributions(found)
            with absent.noting(timestep, "pairs"):
                pairs += pairs_of(stores, found, beside, in_pairs)
    return maps, scores, pairs


def _routes(stores: Stores, timesteps: list[int], absent: Absent) -> list[dict[str, Any]]:
    """Routing tables, last timestep first, for as long as there is room."""
    found: list[dict[str, Any]] = []
    room = CLUSTERS
    for timestep in reversed(timesteps):
        if room <= 0:
            absent.note(timestep, "routes", "no room in this page; `lifelong routes RUN --timestep N` tells")
            continue
        with absent.noting(timestep, "routes"):
            table = routes(stores, timestep)
            table["left_out"] = max(0, len(table["clusters"]) - room)
            table["clusters"] = table["clusters"][:room]
            room -= len(table["clusters"])
            found.append(table)
    return found


def _samples(stores: Stores, maps: list[Map], thumbnails: Pictures | Links) -> dict[str, Any]:
    """{"samples": {sample_id: [dataset, its own id there, skill, text, picture, told]}, "pictures": [URI…]}.

    picture: its place among the pictures, or -1; told: what it shows, or why there is none.
    """
    ids = sorted({sample_id for each in maps for sample_id in each.samples})
    found: dict[str, list[str | int]] = {}
    places: dict[str, int] = {}
    for row in stores.pool.rows(stores.pool.ordinals(ids)):
        (picture,) = thumbnails.of(row)
        place = places.setdefault(picture.uri, len(places)) if picture.uri else -1
        images = f"1 of its {len(row.images)} pictures" if len(row.images) > 1 else "its picture"
        origin = row.source_id or f"{row.file} row {row.row}"
        found[row.sample_id] = [row.dataset, origin, row.skill, text_of(row), place, picture.why or images]
    return {"samples": found, "pictures": list(places)}
