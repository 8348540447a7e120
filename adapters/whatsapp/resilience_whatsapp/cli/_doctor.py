"""`doctor`: what is wrong with token, version, number, account, templates, limits and webhooks. It sends nothing."""

from __future__ import annotations

import asyncio
import platform
from argparse import ArgumentParser, Namespace
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime
from typing import Any

from attrs import asdict, define, field

from resilience_core.cli import Screen, printable
from resilience_whatsapp._version import __version__
from resilience_whatsapp.cli._checks import (
    Check,
    clock_check,
    health_check,
    number_checks,
    permission_check,
    template_checks,
    usage_check,
    version_check,
    wanted_check,
    webhook_check,
)
from resilience_whatsapp.cli._connection import (
    UNREACHABLE,
    Token,
    add_connection,
    client_of,
    failure_of,
    meaning_of,
    token_of,
)
from resilience_whatsapp.cli._templates import templates_of, with_health
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphAuthError, GraphError
from resilience_whatsapp.graph import GraphAnswer, GraphClient
from resilience_whatsapp.status import NUMBER_FIELDS, health_of, number_status_of

TOLD = "what is wrong: token, version, clock, number, account, templates, limits, webhooks; sends nothing"
EXAMPLES = "resilience-whatsapp doctor\n  resilience-whatsapp doctor --template order_confirmation --json"
_EXPIRED = (463, 467)
_REFUSED = (GraphError, AmbiguousOutcomeError)


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument(
        "--template", metavar="NAME", action="append", default=[], help="one that must be usable; may be repeated"
    )
    add_connection(parser)


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """Look at everything that can be read: 1 if there is a warning or an error, 3 if the API cannot be reached."""
    token = token_of(options, env)
    return asyncio.run(_looked(options, screen, token, client_of(options, env, token)))


async def _looked(options: Namespace, screen: Screen, token: Token, http: GraphClient) -> int:
    rounds = Rounds(http, options.template, token)
    checks: list[Check] = []
    if not screen.as_json:
        screen.say(f"{http.base_url} {http.api_version}, number {http.phone_number_id}, account {http.waba_id or '-'}")
    async with http:
        async for check in rounds.checks():
            checks.append(check)
            if not screen.as_json:
                _say(screen, check)
    if screen.as_json:
        target = {"base_url": http.base_url, "api_version": http.api_version, "number": http.phone_number_id}
        target["account"] = http.waba_id or ""
        screen.document({"target": target, "checks": [asdict(each) for each in checks]})
    if rounds.unreachable:
        return 3
    return int(any(check.verdict != "ok" for check in checks))


def _say(screen: Screen, check: Check) -> None:
    screen.say(f"{screen.colour(check.verdict, f'{check.verdict:<7}')}  {check.name}: {printable(check.text)}")
    if check.fix:
        screen.say(f"         {printable(check.fix)}")


@define
class Rounds:
    """One look at everything. What the API does not let us see is told, and the rest is looked at all the same."""

    http: GraphClient
    wanted: list[str]
    token: Token
    unreachable: bool = False
    _headers: list[Mapping[str, str]] = field(factory=list, init=False)

    async def checks(self) -> AsyncIterator[Check]:
        """All checks, as they are made."""
        yield Check("packages", "ok", f"resilience-whatsapp {__version__}, Python {platform.python_version()}")
        if self.token.open_to_others:
            yield Check("token file", "error", f"{self.token.source} can be read by other users", "chmod 600 it")
        try:
            number = await self._ask(self.http.phone_number_id, fields=",".join(NUMBER_FIELDS))
            status = number_status_of(number.content)
        except UNREACHABLE as error:
            self.unreachable = True
            told = failure_of(error, self.http)
            yield version_check(self.http.api_version, None, _now().date())
            yield Check("api", "error", told.text, told.suggestion)
            return
        except _REFUSED as error:
            yield version_check(self.http.api_version, None, _now().date())
            yield self._refusal("number", error)
            if isinstance(error, GraphAuthError):
                return  # nothing else would be answered
        else:
            yield version_check(self.http.api_version, _header(number.headers, "facebook-api-version"), _now().date())
            yield Check("token", "ok", f"accepted; it is from {self.token.source}")
            yield clock_check(_header(number.headers, "date"), _now())
            yield permission_check(await self._optional("me/permissions"))
            for check in number_checks(status):
                yield check
        async for check in self._of_account():
            yield check
        yield usage_check(self._headers)

    async def _of_account(self) -> AsyncIterator[Check]:
        account = self.http.waba_id
        if account is None:
            fix = "set WHATSAPP_WABA_ID, or give --waba-id"
            yield Check("account", "warning", "not named: account, templates and webhooks are not looked at", fix)
            return
        try:
            yield health_check("account health", health_of((await self._ask(account, fields="health_status")).content))
            templates = await templates_of(self.http)
            for check in template_checks(templates):
                yield check
            for name in self.wanted:
                found = [await with_health(self.http, each) for each in templates if each.name == name]
                for check in wanted_check(name, found):
                    yield check
        except _REFUSED as error:
            yield self._refusal("account", error)
        except UNREACHABLE as error:
            told = failure_of(error, self.http)
            yield Check("account", "error", told.text, told.suggestion)
        yield webhook_check(await self._optional(f"{account}/subscribed_apps"))

    async def _ask(self, path: str, **params: str) -> GraphAnswer:
        answer = await self.http.get_object(path, **params)
        self._headers.append(answer.headers)
        return answer

    async def _optional(self, path: str) -> Mapping[str, Any] | None:
        """What the API need not tell."""
        try:
            return (await self._ask(path)).content
        except (*_REFUSED, *UNREACHABLE):
            return None

    def _refusal(self, name: str, error: GraphError | AmbiguousOutcomeError) -> Check:
        if isinstance(error, AmbiguousOutcomeError):
            return Check(name, "error", str(error), error.advice.value)
        if isinstance(error, GraphAuthError):
            where = f"it is from {self.token.source}"
            expired = "it has expired; " if error.subcode in _EXPIRED else ""
            fix = "make a new token of a system user, which does not expire, with both whatsapp_business permissions"
            return Check("token", "error", f"{expired}{error}; {where}", fix)
        if (error.code, error.subcode) == (100, 33):
            fix = "compare the id with WhatsApp Manager, and give the token's system user the account as an asset"
            return Check(name, "error", f"there is no such object, or the token does not reach it: {error}", fix)
        return Check(name, "error", str(error), meaning_of(error))


def _now() -> datetime:
    return datetime.now(UTC)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name), None)
