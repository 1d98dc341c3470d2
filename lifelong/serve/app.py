"""The routes: the page, and what it asks for while it is open."""

from __future__ import annotations

import hashlib
import math
import re
import sqlite3
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from lifelong.account.why import why
from lifelong.errors import InputError, LifelongError, RunError
from lifelong.report.now import now
from lifelong.report.page import render, scripts
from lifelong.report.pictures import thumbnail
from lifelong.serve.kind import Served
from lifelong.serve.samples import sample_of, search
from stores.errors import StoreError

if TYPE_CHECKING:
    from lifelong.context import Stores
    from lifelong.run import Run

SIDES = (32, 512)
"""Pixels that a thumbnail may be asked for, from and to."""
FOREVER = {"Cache-Control": "private, max-age=604800, immutable"}
"""For what is named by the hash of its content."""


class Site:
    """Answers from what a run has committed. Every request opens the run anew: no reader stands in the writer's way."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._kind = Served()
        self._lock = threading.Lock()
        self._page: tuple[str, bytes] = ("", b"")
        self._scripts = {name: text.encode() for name, text in scripts().items()}

    def page(self, request: Request) -> Response:
        """The report, as the run stands; made once for everything that is committed."""
        with self._lock:
            with self.run.reading() as stores:
                version = self._now(stores)["version"]
            if self._page[0] != version:
                self._page = (version, render(self.run, {}, self._kind))
                self._kind.draw_wanted(self.run)
            return HTMLResponse(self._page[1])

    def script(self, request: Request) -> Response:
        """A script of the page; asked for again it is only compared."""
        text = self._scripts.get(request.path_params["name"])
        if text is None:
            raise HTTPException(404, "there is no such script")
        headers = {"ETag": f'"{hashlib.sha256(text).hexdigest()[:32]}"', "Cache-Control": "private, no-cache"}
        if request.headers.get("if-none-match") == headers["ETag"]:
            return Response(status_code=304, headers=headers)
        return Response(text, media_type="text/javascript; charset=utf-8", headers=headers)

    def status(self, request: Request) -> Response:
        """Where the run stands; see `lifelong.report.now.now`."""
        with self.run.reading() as stores:
            return _json(self._now(stores))

    def _now(self, stores: Stores) -> dict[str, Any]:
        found = now(stores)
        return found | {"version": f"{found['version']}-{self._kind.drawn}"}

    def curves(self, request: Request) -> Response:
        """As `lifelong curves RUN --json`."""
        return _json(self.run.skill_matrix().to_dict())

    def samples(self, request: Request) -> Response:
        """{"samples": those that are named by `find`, or have it in their text}: of a `skill`, `limit` at most."""
        asked = request.query_params
        limit = _number(asked.get("limit"), 1, 200, 50)
        with self.run.reading() as stores:
            found = search(stores, asked.get("find", ""), asked.get("skill", ""), limit)
            return _json({"samples": [sample_of(stores, row) for row in found]})

    def why(self, request: Request) -> Response:
        """As `lifelong why RUN SAMPLE --json`; the sample is the parameter `sample`."""
        with self.run.reading() as stores:
            return _json(why(stores, request.query_params.get("sample", "")))

    def picture(self, request: Request) -> Response:
        """A thumbnail of an image of the pool, `side` pixels at most."""
        sha256 = request.path_params["sha256"]
        if not re.fullmatch("[0-9a-f]{64}", sha256):
            raise HTTPException(404, "a picture is named by its hash")
        side = _number(request.query_params.get("side"), *SIDES, 192)
        with self.run.reading() as stores:
            if not stores.media.knows(sha256):
                raise HTTPException(404, "the run holds no such picture")
            data = stores.media.read(sha256)
        return Response(thumbnail(data, side), media_type="image/webp", headers=FOREVER)


def application(run: Run) -> Starlette:
    """The routes of a run, unguarded. Raises: InputError if what the page is made with is not installed."""
    site = Site(run)
    routes = [
        Route("/", site.page),
        Route("/assets/{name}.js", site.script),
        Route("/pictures/{sha256}", site.picture),
        Route("/api/status", site.status),
        Route("/api/curves", site.curves),
        Route("/api/samples", site.samples),
        Route("/api/why", site.why),
    ]
    handlers = {
        InputError: partial(_told, 404),
        RunError: partial(_told, 503),
        LifelongError: partial(_told, 503),
        StoreError: partial(_told, 503),
        sqlite3.Error: partial(_told, 503),
        OSError: partial(_told, 503),
        HTTPException: _refused,
    }
    return Starlette(routes=routes, exception_handlers=handlers)


async def _told(status: int, request: Request, error: Exception) -> Response:
    """What is wrong with the run, in the words of the error."""
    return _error(request, status, str(error))


async def _refused(request: Request, error: HTTPException) -> Response:
    return _error(request, error.status_code, error.detail)


def _error(request: Request, status: int, told: str) -> Response:
    if request.url.path == "/":
        return Response(f"{told}\n", status, media_type="text/plain; charset=utf-8")
    return JSONResponse({"error": told}, status)


def _number(text: str | None, low: int, high: int, default: int) -> int:
    if text is None:
        return default
    if not re.fullmatch(r"\d{1,9}", text) or not low <= int(text) <= high:
        raise HTTPException(400, f"{text!r} is not a number from {low} to {high}")
    return int(text)


def _json(value: Any) -> Response:
    return JSONResponse(_plain(value))


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
