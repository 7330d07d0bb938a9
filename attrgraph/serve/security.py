"""Who may ask, and how much: every request passes here before anything of it is read.

A page of another site that is open in the same browser can send requests to this machine. It neither knows the token
nor gets the cookie sent with its requests; and its name stands in Origin, or, when it has pretended that its name is
this machine's, in Host.
"""

import asyncio
import hmac
import logging
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders, QueryParams
from starlette.requests import ClientDisconnect, cookie_parser
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

MOST_BYTES = 2**16  # of a body
# for a body to arrive, and for one that is refused to be heard
_BODY_S, _LINGER_S = 20.0, 2.0
# the page of a graph has a policy of its own, by the digest of its script
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'"
STRICTER = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
_HEADERS = {
    "content-security-policy": f"{POLICY}; {STRICTER}",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_FAILED = "The server failed at this; the terminal in which it runs says why."
_TOO_LARGE = f"The body is too large; expected at most {MOST_BYTES:,} bytes."
_TOO_SLOW = f"The body did not arrive within {_BODY_S:.0f} s."

logger = logging.getLogger(__name__)


class Guard:
    """An app that only its own pages, and those who know the token, can ask.

    Args:
        app: what is guarded.
        token: stands in the address that is opened first, as `?token=`, and then in a cookie; or in the header
            `Authorization: Bearer`.
        port: on which the app is asked; part of the names that Host and Origin may have.
    """

    def __init__(self, app: ASGIApp, *, token: str, port: int) -> None:
        self._app, self._token = app, token
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        # cookies do not tell ports apart
        self._cookie = f"attrgraph-{port}"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        is_told = self._is_told(scope, headers)
        status, why = self._refusal(scope["method"], headers, is_told=is_told)
        has_begun = False

        async def answer(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                own = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    own.setdefault(name, value)
                if is_told and not why:
                    own.append("set-cookie", f"{self._cookie}={self._token}; HttpOnly; SameSite=Strict; Path=/")
            await send(message)

        if why:
            await _refuse(status, why, answer, receive if scope["method"] == "POST" else None)
            return
        try:
            async with asyncio.timeout(_BODY_S):
                body, goes_on = await _body(receive) if scope["method"] == "POST" else (b"", False)
        except ClientDisconnect:
            return
        except TimeoutError:
            await _refuse(408, _TOO_SLOW, answer, None)
            return
        try:
            if len(body) > MOST_BYTES:
                await _refuse(413, _TOO_LARGE, answer, receive if goes_on else None)
            else:
                await self._app(scope, _again(body, receive), answer)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("%s %s", scope["method"], scope["path"])
            if not has_begun:
                await PlainTextResponse(_FAILED, 500)(scope, receive, answer)

    def _is_told(self, scope: Scope, headers: Headers) -> bool:
        """Whether the request states the token where no other site's page can put it."""
        given = QueryParams(scope["query_string"]).getlist("token")
        given += [value[7:] for value in headers.getlist("authorization") if value[:7].lower() == "bearer "]
        return self._is_token(given)

    def _is_token(self, given: Sequence[str]) -> bool:
        token = self._token.encode()
        return any([hmac.compare_digest(one.encode(errors="replace"), token) for one in given])

    def _refusal(self, method: str, headers: Headers, *, is_told: bool) -> tuple[int, str]:
        """Status and why; an empty reason lets the request through."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 403, f"This server is asked as {' or '.join(sorted(self._hosts))} only."
        if method not in ("GET", "HEAD", "POST"):
            return 405, "Expected GET or POST."
        cookies = [cookie_parser(each).get(self._cookie, "") for each in headers.getlist("cookie")]
        if not is_told and not self._is_token(cookies):
            return 403, "The token is missing or wrong; open the address that attrgraph serve has printed."
        # a browser states it whenever a page posts
        is_unknown = not origins and method == "POST" and not is_told
        if is_unknown or any(origin not in {f"http://{host}" for host in self._hosts} for origin in origins):
            return 403, "Only pages of this server may ask it; the Origin is another, or missing."
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > MOST_BYTES:
            return 413, _TOO_LARGE
        if method == "POST" and headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return 415, "Expected a body of Content-Type application/json."
        return 200, ""


async def _body(receive: Receive) -> tuple[bytes, bool]:
    """A body, or so much of it that it is too large, and whether it goes on; its length need not have been stated.

    Raises:
        ClientDisconnect: it does not end.
    """
    body, goes_on = b"", True
    while goes_on and len(body) <= MOST_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        goes_on = message.get("more_body", False)
    return body, goes_on


def _again(body: bytes, receive: Receive) -> Receive:
    """What gives the body that has been read, and then what comes."""
    is_given = False

    async def give() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return give


async def _refuse(status: int, why: str, send: Send, rest: Receive | None) -> None:
    """Refuse, and close the connection.

    Args:
        rest: of a body: who sends it is heard for a moment, or could not read the answer; nothing of it is kept.
    """
    line = f"{why}\n".encode()
    headers = {"content-type": "text/plain; charset=utf-8", "content-length": str(len(line)), "connection": "close"}
    raw = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": line, "more_body": True})
    try:
        async with asyncio.timeout(_LINGER_S):
            while rest is not None and (await rest()).get("more_body"):
                pass
    except TimeoutError:
        pass
    await send({"type": "http.response.body", "body": b""})
