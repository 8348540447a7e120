"""What all commands that ask the API have in common: who asks, where, and how failures are told."""

from __future__ import annotations

import logging
import os
import stat
import sys
import warnings
from argparse import ArgumentParser, Namespace
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from attrs import field, frozen

from resilience_core import CircuitBreaker, ConfigurationError, Event, Retry, RetryScheduled, Timeout, config
from resilience_core.cli import Failure
from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, InvalidMessageError
from resilience_whatsapp.gates import Gates
from resilience_whatsapp.graph import DEFAULT_API_VERSION, DEFAULT_BASE_URL, GraphClient
from resilience_whatsapp.settings import BREAKER_NAME, DEFAULT, DEVELOPMENT, PRODUCTION

TOKEN, TOKEN_FILE = "WHATSAPP_TOKEN", "WHATSAPP_TOKEN_FILE"
PHONE_NUMBER_ID, WABA_ID = "WHATSAPP_PHONE_NUMBER_ID", "WHATSAPP_WABA_ID"
_PRESETS = {"default": DEFAULT, "production": PRODUCTION, "development": DEVELOPMENT}
_LONGEST_TOKEN = 64 * 1024
UNREACHABLE = (aiohttp.ClientError, TimeoutError, OSError)
"""What is raised where no answer came."""


def add_connection(parser: ArgumentParser) -> None:
    """Words about who asks, and where."""
    parser.add_argument("--phone-number-id", metavar="ID", help=f"of the sending number; else {PHONE_NUMBER_ID}")
    parser.add_argument("--waba-id", metavar="ID", help=f"of the business account; else {WABA_ID}")
    parser.add_argument("--token-file", metavar="PATH", help=f"a file with the token; else {TOKEN} or {TOKEN_FILE}")
    parser.add_argument("--base-url", metavar="URL", help=f"else WHATSAPP_BASE_URL, else {DEFAULT_BASE_URL}")
    parser.add_argument("--api-version", metavar="V", help=f"else WHATSAPP_API_VERSION, else {DEFAULT_API_VERSION}")
    parser.add_argument("--json", action="store_true", dest="as_json", help="one JSON document")


def add_policies(parser: ArgumentParser) -> None:
    """Words about retries and time-outs."""
    parser.add_argument(
        "--environment", metavar="NAME", help="production, development or default; with --config an overlay of the file"
    )
    parser.add_argument("--config", metavar="FILE", help=f"a configuration whose stack {BREAKER_NAME!r} is used")


@frozen
class Token:
    """The token, and where it was found."""

    value: str = field(repr=False)
    source: str
    open_to_others: bool = False
    """Whether its file can be read by other users."""


def token_of(options: Namespace, env: Mapping[str, str]) -> Token:
    """The token.

    Raises:
        Failure: there is none, or what is there is none (2).
    """
    path = options.token_file or (None if env.get(TOKEN) else env.get(TOKEN_FILE))
    if path:
        return _token_in(Path(path))
    value = env.get(TOKEN, "").strip()
    if not value:
        raise Failure(2, "there is no token", f"set {TOKEN} or {TOKEN_FILE}, or give --token-file")
    return _checked(Token(value, f"the environment's {TOKEN}"))


def _token_in(path: Path) -> Token:
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            value = file.read(_LONGEST_TOKEN).decode("ascii", "replace").strip()
    except OSError as error:
        raise Failure(2, f"the token's file cannot be read: {error.strerror}", "see --token-file") from None
    open_to_others = bool(status.st_mode & (stat.S_IRGRP | stat.S_IROTH)) and stat.S_ISREG(status.st_mode)
    return _checked(Token(value, f"the file {path}", open_to_others))


def _checked(token: Token) -> Token:
    if not token.value or any(not "!" <= letter <= "~" for letter in token.value):
        raise Failure(2, f"what is in {token.source} is no token", "it must hold the token alone, in one line")
    return token


def client_of(options: Namespace, env: Mapping[str, str], token: Token, *, waba: bool = False) -> GraphClient:
    """The client that asks; with `waba`, one that must know the business account.

    Raises:
        Failure: an id is missing, or something is not in the form that it must have (2).
    """
    number = options.phone_number_id or env.get(PHONE_NUMBER_ID)
    account = options.waba_id or env.get(WABA_ID) or None
    if not number:
        raise Failure(2, "the sending number is not named", f"set {PHONE_NUMBER_ID}, or give --phone-number-id")
    if waba and account is None:
        raise Failure(2, "the business account is not named", f"set {WABA_ID}, or give --waba-id")
    try:
        return GraphClient(
            token=token.value,
            phone_number_id=number,
            waba_id=account,
            base_url=options.base_url or env.get("WHATSAPP_BASE_URL") or DEFAULT_BASE_URL,
            api_version=options.api_version or env.get("WHATSAPP_API_VERSION") or DEFAULT_API_VERSION,
        )
    except ConfigurationError as error:
        raise Failure(2, str(error), "see --help") from None


def guarded(
    options: Namespace, env: Mapping[str, str], http: GraphClient, gates: Gates | None = None
) -> ResilientWhatsAppClient:
    """The same client with retries, as configuration or preset have them; each retry is told on the error stream.

    Raises:
        Failure: the configuration is wrong (2).
    """
    breaker, retry, total = _policies(options, env)
    logger = logging.getLogger("resilience_whatsapp.cli")
    logger.propagate, logger.handlers[:] = False, [logging.NullHandler()]  # what it would say is told here
    client = ResilientWhatsAppClient(http, breaker, retry, logger, total_timeout=total, gates=gates)
    client.retry_policy.subscribe(_tell_retry)
    return client


def _tell_retry(event: Event) -> None:
    if isinstance(event, RetryScheduled):
        what = name_of_error(event.error)
        print(f"attempt {event.attempt} failed: {what}; again in {event.delay:.1f}s", file=sys.stderr, flush=True)


def _policies(options: Namespace, env: Mapping[str, str]) -> tuple[CircuitBreaker | None, Retry | None, float | None]:
    if options.config is None:
        name = options.environment or "default"
        if name not in _PRESETS:
            raise Failure(2, "there is no such environment", f"there are {', '.join(_PRESETS)}; others need --config")
        settings = _PRESETS[name]
        return settings.circuit_breaker(), settings.retry_policy(), settings.total_timeout
    try:
        configuration = config.load(options.config, environment=options.environment, env=env)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a composition that is another one here
            stack = configuration.build(BREAKER_NAME).policies if BREAKER_NAME in configuration.stacks else ()
    except config.InvalidConfiguration as error:
        first = str(error.problems[0]).splitlines()[0]
        raise Failure(2, f"the configuration: {first}", f"see resilience config check {options.config}") from None
    if not stack:
        raise Failure(
            2, f"the configuration has no stack {BREAKER_NAME!r}", f"it needs [policies.{BREAKER_NAME}.retry]"
        )
    found: dict[type[Any], Any] = {}
    for policy in stack:
        if not isinstance(policy, (CircuitBreaker, Retry, Timeout)):
            raise Failure(
                2,
                f"the stack {BREAKER_NAME!r} has a {policy.kind}, which is not used here",
                "it may have circuit_breaker, retry and timeout",
            )
        found[type(policy)] = policy
    total = found.get(Timeout)
    return found.get(CircuitBreaker), found.get(Retry), None if total is None else total.seconds


def failure_of(error: BaseException, http: GraphClient) -> Failure:
    """How an error of a request is told: in our own words, without anything that the API or the caller wrote."""
    if isinstance(error, GraphError):
        return Failure(1, str(error), meaning_of(error))
    if isinstance(error, AmbiguousOutcomeError):
        return Failure(1, str(error), error.advice.value)
    if isinstance(error, InvalidMessageError):
        return Failure(2, str(error), "nothing was sent")
    if isinstance(error, UNREACHABLE):
        return Failure(3, f"{http.base_url} cannot be reached ({type(error).__name__})", "see --base-url, and proxies")
    return Failure(1, type(error).__name__)


@contextmanager
def told(http: GraphClient) -> Generator[None]:
    """Errors of requests become failures."""
    try:
        yield
    except (GraphError, AmbiguousOutcomeError, *UNREACHABLE) as error:
        raise failure_of(error, http) from None


def meaning_of(error: GraphError) -> str:
    """What an error code means, and what helps."""
    meaning = "" if error.known is None else f"{error.known.meaning}: "
    wait = "" if error.wait is None else f" (in {error.wait:g} s)"
    return f"{meaning}{error.advice.value}{wait}"
