"""The report as a server makes it: pictures are links, and maps are drawn once, while the page is read already."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from lifelong.errors import LifelongError
from lifelong.report.absent import AbsentError
from lifelong.report.decided import Decided, decided
from lifelong.report.maps import Map, draw_map
from lifelong.report.pictures import Links

if TYPE_CHECKING:
    from lifelong.context import Stores
    from lifelong.run import Run

Key = tuple[str, int]
"""Digest of the decisions, and how many samples a map may have."""
DRAWING = "the map is being drawn; it appears here by itself"


class Served:
    """See `lifelong.report.gather.Kind`. drawn: how often maps have been added."""

    share = 1.0
    served = True

    def __init__(self) -> None:
        self.drawn = 0
        self._maps: dict[Key, Map | AbsentError] = {}
        self._wanted: dict[Key, int] = {}
        self._thread: threading.Thread | None = None

    def thumbnails(self, stores: Stores) -> Links:
        return Links(stores, 192)

    def beside(self, stores: Stores) -> Links:
        return Links(stores, 200)

    def map_of(self, stores: Stores, found: Decided, points: int) -> Map:
        key = (found.digest, points)
        if key not in self._maps:
            self._wanted[key] = found.timestep
            raise AbsentError(DRAWING)
        known = self._maps[key]
        if isinstance(known, AbsentError):
            raise known
        return known

    def draw_wanted(self, run: Run) -> None:
        """Draw the maps that were asked for and not there, in a thread that does not keep the process alive."""
        if self._wanted and (self._thread is None or not self._thread.is_alive()):
            wanted, self._wanted = self._wanted, {}
            self._thread = threading.Thread(target=self._draw, args=(run, wanted), daemon=True)
            self._thread.start()

    def _draw(self, run: Run, wanted: dict[Key, int]) -> None:
        # The latest first: it is what the reader sees.
        for key, timestep in sorted(wanted.items(), key=lambda item: -item[1]):
            try:
                with run.reading() as stores:
                    self._maps[key] = draw_map(stores, decided(stores, timestep), key[1])
            except AbsentError as error:
                self._maps[key] = error
            except LifelongError as error:
                self._maps[key] = AbsentError(str(error))
        # Maps of other sizes are of a time when there were fewer timesteps.
        sizes = {points for _, points in wanted}
        self._maps = {key: each for key, each in self._maps.items() if key[1] in sizes}
        self.drawn += 1
