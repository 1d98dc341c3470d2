"""Opening a port, and answering on it until Ctrl-C."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

from lifelong.errors import InputError, UsageError

if TYPE_CHECKING:
    from lifelong.run import Run

PORT = 8321
FEWEST = 16
"""Characters of a token."""
STOP_SECONDS = 2
"""How long answers that are under way may take after Ctrl-C."""


def serve(
    run: Run, *, host: str, port: int | None, token: str | None, announce: Callable[[str], None]
) -> None:
    """Serve a run until it is interrupted.

    port: None: `PORT`, or any that is free where it is taken. token: None: a random one. announce: is given the
    address, with the token, once requests are answered.

    Raises:
        InputError: the packages of the extra `serve` are not installed.
        UsageError: the token is too easy to guess, or nothing can listen there.
        RunError: the run's database cannot be read.
    """
    try:
        import uvicorn

        from lifelong.serve.app import application
        from lifelong.serve.guard import Guard
    except ModuleNotFoundError as error:
        raise InputError(
            f"serving needs the package {error.name!r}: pip install 'lifelong[serve]'"
        ) from error
    token = secrets.token_urlsafe(24) if token is None else _checked(token)
    run.skill_matrix()  # a run that cannot be read must show now, not at the first request
    app = application(run)
    listening = _listen(host, port)
    with listening:
        port = listening.getsockname()[1]
        config = uvicorn.Config(
            Guard(app, token, host, port),
            log_level="warning",
            access_log=False,  # it would show the token
            server_header=False,
            timeout_graceful_shutdown=STOP_SECONDS,
        )
        server = uvicorn.Server(config)
        announce(f"http://{_named(host)}:{port}/?token={token}")
        server.run(sockets=[listening])


def _checked(token: str) -> str:
    if not re.fullmatch(rf"[A-Za-z0-9._~-]{{{FEWEST},}}", token):
        raise UsageError(
            f"a token has {FEWEST} or more letters, digits and -._~ (without --token one is made up by chance)"
        )
    return token


def _listen(host: str, port: int | None) -> socket.socket:
    """A socket that listens. Raises: UsageError if there can be none."""
    for wanted in [PORT, 0] if port is None else [port]:
        try:
            family = socket.getaddrinfo(host, wanted, type=socket.SOCK_STREAM)[0][0]
            return socket.create_server((host, wanted), family=family)
        except (OSError, OverflowError) as error:
            refused = error
    raise UsageError(f"cannot listen on {host} port {port}: {refused}; give another --port or --host")


def _named(host: str) -> str:
    """How a browser is to call the host."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
