"""An aiohttp session whose requests are guarded.

The policies go around `session.request`, never into a client middleware: a body that was streamed once would be sent
empty on the second try. aiohttp itself repeats an idempotent request once when a kept-alive connection turns out to be
dead; that happens inside one attempt, and `resends` counts it.
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Callable, Iterator
from io import IOBase
from types import SimpleNamespace
from typing import Any

import aiohttp

from resilience_core import Policy, Verdict
from resilience_http.classify import classify_response, is_idempotent
from resilience_http.errors import HttpStatusError


class ResilientSession:
    """Guards the requests of an `aiohttp.ClientSession`.

    Args:
        session: the session; it stays yours to close.
        policy: guards requests with idempotent methods; build it with `idempotent=True` and
            `classify=classify_exception`.
        unsafe_policy: guards all other requests (POST, PATCH); build it without `idempotent`.
    """

    def __init__(self, session: aiohttp.ClientSession, policy: Policy, unsafe_policy: Policy) -> None:
        self._session = session
        self._policy = policy
        self._unsafe_policy = unsafe_policy
        self.resends = 0
        """Requests that aiohttp sent a second time by itself."""
        counter = aiohttp.TraceConfig()
        counter.on_request_start.append(self._count_start)
        counter.on_request_headers_sent.append(self._count_send)
        counter.freeze()
        session.trace_configs.append(counter)

    async def request(
        self, method: str, url: str, *, data: Any = None, allow_redirects: bool = False, **options: Any
    ) -> aiohttp.ClientResponse:
        """Make a request; the answer's body is not read yet, and closing it is up to the caller.

        Redirects are not followed unless asked for, so that credentials stay with the host they are meant for. `data`
        may be a function without arguments, called for each attempt, to send a stream.

        Raises:
            HttpStatusError: the answer is not a success, and no attempt is left.
            TypeError: `data` can be sent only once.
        """
        body = _body_of(data)
        policy = self._policy if is_idempotent(method) else self._unsafe_policy

        async def attempt() -> aiohttp.ClientResponse:
            response = await self._session.request(method, url, data=body(), allow_redirects=allow_redirects, **options)
            if classify_response(response).verdict is not Verdict.SUCCESS:
                response.close()
                raise HttpStatusError(method.upper(), response.status, response.headers.get("Retry-After"))
            return response

        return await policy.acall(attempt)

    async def _count_start(self, session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        context.sends = 0

    async def _count_send(self, session: aiohttp.ClientSession, context: SimpleNamespace, params: Any) -> None:
        context.sends += 1
        if context.sends > 1:
            self.resends += 1


def _body_of(data: Any) -> Callable[[], Any]:
    if callable(data):
        factory: Callable[[], Any] = data
        return factory
    if isinstance(data, (AsyncIterable, Iterator, IOBase)):
        raise TypeError(
            f"data is a {type(data).__name__}, which can be sent only once and would be empty on a second attempt: "
            "give bytes, or a function that makes it anew"
        )
    return lambda: data
