"""Who may ask: those who have the token, by a name that cannot have been rebound, and only to read."""

from __future__ import annotations

import hmac
import ipaddress
import socket
from collections.abc import MutableMapping
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

POLICY = (
    "default-src 'none'; img-src 'self' data: blob:; style-src 'unsafe-inline'; script-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """Answers whatever may not be asked, and puts what a browser must obey on every answer.

    token: comes as `?token=`, as a bearer token or in the cookie that the first answer sets. host: the name that the
    server was told to listen on, by which it may be called.
    """

    def __init__(self, app: ASGIApp, token: str, host: str, port: int) -> None:
        self.app = app
        self._token = token
        self._names = {"localhost", socket.gethostname().lower(), host.lower()}
        # Cookies are shared by all ports of a machine.
        self._cookie = f"lifelong-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            else:
                await self.app(scope, receive, send)
            return
        answer: ASGIApp | Response = self._refusal(scope) or self.app
        asked = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
        enter = answer is self.app and bool(asked)

        async def sending(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
                if enter:
                    headers.append(
                        "Set-Cookie", f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
                    )
            await send(message)

        await answer(scope, receive, sending)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = Headers(scope=scope)
        if not self._is_own_name(headers.get("host", "")):
            return PlainTextResponse("this server is not called by that name\n", 400)
        if not any(self._is_token(each) for each in self._tokens(scope, headers)):
            told = "the token is missing or wrong: open the address that `lifelong serve` printed, with its ?token="
            if scope["path"].startswith("/api/"):
                return JSONResponse({"error": told}, 401)
            return PlainTextResponse(f"{told}\n", 401)
        if scope["method"] not in ("GET", "HEAD"):
            return PlainTextResponse("this server only shows\n", 405, {"Allow": "GET, HEAD"})
        return None

    def _is_own_name(self, host: str) -> bool:
        """Whether the Host header is an address or a name of ours: no other site's name can be pointed at those."""
        name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
        if name.lower() in self._names:
            return True
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True

    def _tokens(self, scope: Scope, headers: Headers) -> list[str]:
        found = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])[:1]
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer":
            found.append(bearer.strip())
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(self._cookie)
        except CookieError:
            cookie = None
        return [*found, cookie.value] if cookie is not None else found

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())
