"""`lifelong serve`: what it answers, to whom, and how it ends. What a reader sees of it is in tests/browser."""

from __future__ import annotations

import io
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from PIL import Image

from lifelong import Run
from lifelong.account.why import why
from lifelong.cli import invoke
from tests.runs.child import Children
from tests.runs.serving import TOKEN, Server, serving
from tests.runs.small import small_entry

pytest.importorskip("uvicorn", reason="serving needs the extra `serve`")

ROUTES = (
    "/",
    "/assets/page.js",
    "/api/status",
    "/api/curves",
    "/api/samples?find=a",
    "/api/why?sample=nobody",
    "/nowhere",
)


@pytest.fixture(scope="module")
def server(finished: Run) -> Iterator[Server]:
    with serving(finished.root) as found:
        yield found


@pytest.fixture(scope="module")
def picture(finished: Run) -> str:
    """The name of an image that the run holds."""
    with finished.reading() as stores:
        return next(row.sha256 for row in stores.media.rows())


def test_the_address_has_the_token_and_this_machine_alone_is_listened_to(server: Server) -> None:
    assert server.url == f"http://127.0.0.1:{server.port}/?token={TOKEN}"
    with pytest.raises(OSError, match="refused"), socket.create_connection(("127.0.0.2", server.port), 5):
        pass


@pytest.mark.parametrize("route", ROUTES)
def test_every_route_needs_the_token(server: Server, route: str) -> None:
    joined = "&" if "?" in route else "?"
    for answer in (
        server.ask(route, token=None),
        server.ask(route, token=TOKEN[:-1]),
        server.ask(f"{route}{joined}token=", token=None),
        server.ask(route, token=None, Cookie=f"lifelong-{server.port}=wrong; lifelong-1={TOKEN}"),
        server.ask(route, token=None, Authorization=f"Basic {TOKEN}"),
    ):
        assert answer.status == 401
        assert "lifelong serve" in answer.text
        assert "set-cookie" not in answer.headers
    assert server.ask(route).status == (404 if route in ("/nowhere",) or "why" in route else 200)


def test_the_token_in_the_address_is_exchanged_for_a_cookie(server: Server) -> None:
    first = server.ask(f"/?token={TOKEN}", token=None)
    assert first.status == 200
    cookie, *rules = first.headers["set-cookie"].split("; ")
    assert set(rules) == {"Path=/", "HttpOnly", "SameSite=Strict"}
    assert server.ask("/api/status", token=None, Cookie=cookie).status == 200
    assert "set-cookie" not in server.ask("/", token=None, Cookie=cookie).headers


def test_other_names_of_this_machine_are_refused_and_nothing_can_be_changed(server: Server) -> None:
    for name in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        assert server.ask("/", Host=name).status == 400
    for name in ("localhost:99", f"127.0.0.1:{server.port}", "[::1]:1", "LOCALHOST"):
        assert server.ask("/api/status", Host=name).status == 200
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        assert server.ask("/", method).status == 405


def test_what_a_browser_must_obey_is_on_every_answer(server: Server) -> None:
    for answer in (
        server.ask("/"),
        server.ask("/", token=None),
        server.ask("/nowhere"),
        server.ask("/", "POST"),
    ):
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none';")
        assert "script-src 'self';" in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["cache-control"] == "no-store"
        assert "server" not in answer.headers
    page = server.ask("/")
    assert 'src="assets/page.js"' in page.text
    assert "http-equiv" not in page.text
    assert TOKEN not in page.text


def test_nothing_but_the_pictures_of_the_pool_comes_out(server: Server, finished: Run, picture: str) -> None:
    shown = server.ask(f"/pictures/{picture}?side=64")
    assert (shown.status, shown.headers["content-type"]) == (200, "image/webp")
    assert max(Image.open(io.BytesIO(shown.body)).size) == 64
    for side in ("0", "9999", "-1", "x", "64%00"):
        assert server.ask(f"/pictures/{picture}?side={side}").status == 400
    for path in (
        "/pictures/../config.yaml",
        "/pictures/..%2fconfig.yaml",
        "/pictures/%2e%2e/config.yaml",
        "/assets/../page.py",
        "/assets/..%2f..%2fpage.py.js",
        "/assets/live.js",
        f"/pictures/{'0' * 64}",
        "//etc/passwd",
        "/config.yaml",
        "/lifelong.sqlite",
    ):
        answer = server.ask(path)
        assert answer.status == 404, path
        assert "model" not in answer.text


def test_the_curves_the_samples_and_their_why_are_those_of_the_run(server: Server, finished: Run) -> None:
    assert server.ask("/api/curves").json == json.loads(finished.skill_matrix().to_json())
    with finished.reading() as stores:
        rows = [*stores.pool.rows(range(72))]
        expected = why(stores, rows[0].sample_id)
    assert server.ask(f"/api/why?sample={rows[0].sample_id}").json == json.loads(json.dumps(expected))
    missing = server.ask("/api/why?sample=nobody")
    assert (missing.status, "nothing on record" in missing.json["error"]) == (404, True)
    (named,) = server.ask(f"/api/samples?find={rows[5].sample_id}").json["samples"]
    assert (named["sample_id"], named["skill"]) == (rows[5].sample_id, rows[5].skill)
    assert server.ask(f"/{named['pictures'][0]}").status == 200
    word = "shape"
    found = server.ask(f"/api/samples?find={word.upper()}&limit=5").json["samples"]
    assert len(found) == 5
    assert all(word in sample["text"].lower() for sample in found)
    of_skill = server.ask(f"/api/samples?skill={quote(rows[-1].skill)}&limit=200").json["samples"]
    assert {sample["skill"] for sample in of_skill} == {rows[-1].skill}
    assert len(of_skill) == 24
    for nothing in ("%25", "_", "%5C", "role", "%22"):
        texts = [sample["text"] for sample in server.ask(f"/api/samples?find={nothing}").json["samples"]]
        assert all({"%25": "%", "%5C": "\\", "%22": '"'}.get(nothing, nothing) in text for text in texts)


def test_it_follows_a_run_that_another_process_writes(
    copied: Run, children: Children, tmp_path: Path
) -> None:
    more = small_entry(tmp_path, "puzzlevqa", rows=12, evals=4)
    options = [
        option for name in ("images", "eval", "skill", "metric") for option in (f"--{name}", more[name])
    ]
    with serving(copied.root) as server:
        before = server.ask("/api/status").json
        assert before["told"] == "3 timesteps are finished; nothing is under way."
        pid = children.start(
            "feed", copied.root, more["train"], *options, at=(4, "train", "before"), do="hold"
        )
        held = copied.root / "held"
        while not held.exists():
            time.sleep(0.05)
        during = server.ask("/api/status").json
        assert (during["timestep"], during["phase"], during["writer"]) == (4, "train", "working")
        assert [each["phase"] for each in during["phases"] if each["seconds"] is not None] == [
            *("ingest", "measure", "cluster", "route", "select")
        ]
        assert during["version"] != before["version"]
        assert "is under way: train." in server.ask("/").text
        held.unlink()
        assert children.wait(pid).code == 0
        after = server.ask("/api/status").json
        assert after["told"] == "4 timesteps are finished; nothing is under way."
        assert after["version"] not in (before["version"], during["version"])
        assert len(server.ask("/api/curves").json["R"]) == 5
        database = copied.root / "lifelong.sqlite"
        for path in copied.root.glob("lifelong.sqlite*"):
            path.unlink()
        database.write_bytes(b"no database" * 1000)
        for route in ("/", "/api/status", "/api/curves"):
            damaged = server.ask(route)
            assert damaged.status == 503
            assert "lifelong.sqlite" in damaged.text


def test_ctrl_c_ends_it_well_even_while_somebody_looks(finished: Run) -> None:
    with serving(finished.root) as server, socket.create_connection(("127.0.0.1", server.port)) as looking:
        assert server.ask("/api/status").status == 200
        looking.sendall(b"GET / HTTP/1.1\r\n")
        code, said = server.end()
        assert code == 0
        assert said.splitlines()[-1] == "served no longer"
        assert TOKEN not in said


def test_it_says_why_it_cannot_serve(
    finished: Run, new_run: Callable[..., Run], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert invoke(["serve", str(tmp_path)]) == 3
    assert "holds no run" in capsys.readouterr().err
    assert invoke(["serve", str(finished.root), "--token", "short"]) == 2
    assert "16 or more" in capsys.readouterr().err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert invoke(["serve", str(finished.root), "--port", str(port)]) == 2
        assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
    damaged = new_run().root
    for path in damaged.glob("lifelong.sqlite*"):
        path.write_bytes(b"no database" * 1000)
    assert invoke(["serve", str(damaged)]) == 3
    assert "lifelong.sqlite" in capsys.readouterr().err
