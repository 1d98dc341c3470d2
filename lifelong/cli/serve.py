"""`lifelong serve`."""

from __future__ import annotations

from typing import Annotated

import typer

from lifelong.cli.options import RunFolder, print_text, say


def serve(
    run: RunFolder,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Default: 8321, or a free one where that is taken.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    token: Annotated[
        str | None,
        typer.Option(envvar="LIFELONG_TOKEN", help="What a reader must show. Default: a random one."),
    ] = None,
) -> None:
    """The report as a page that follows the run while it goes on; read-only, for whoever has the address."""
    from lifelong.run import Run
    from lifelong.serve.listen import serve as listen

    opened = Run.open(run)
    if host not in ("127.0.0.1", "localhost", "::1"):
        say(f"listening on {host}: the page and its token pass over the network unencrypted")
    say(f"serving {run}, read-only; Ctrl-C ends it")
    try:
        listen(opened, host=host, port=port, token=token, announce=print_text)
    except KeyboardInterrupt:
        # There is no other way to end it: it is done, not broken off.
        say("served no longer")
