"""`send`: one message, with retries, and what became of it."""

from __future__ import annotations

import asyncio
import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import asdict

from resilience_core.cli import Failure, Screen, lasting
from resilience_whatsapp.cli._connection import (
    UNREACHABLE,
    add_connection,
    add_policies,
    client_of,
    failure_of,
    guarded,
    token_of,
)
from resilience_whatsapp.errors import AmbiguousOutcomeError, GraphError, InvalidMessageError
from resilience_whatsapp.graph import GraphClient
from resilience_whatsapp.messages import MessageRequest, TemplateBody, TemplateMessage, Text, TextParameter
from resilience_whatsapp.records import MessageRecord, MessageStatus, mask_recipient
from resilience_whatsapp.service import WhatsAppService

TOLD = "send a text, a template or any other message, and tell what became of it"
EXAMPLES = """\
resilience-whatsapp send +33612345678 --template order_confirmation --language fr --value 1234 --value lundi
  resilience-whatsapp send --at-most-once --json --request message.json"""
PERHAPS = 4
"""Exit code for a message whose fate is unknown."""
_LONGEST = 1024 * 1024
_RECONCILE = "wait for a webhook with its id, or look at the recipient's phone, before it is sent again"


def add_arguments(parser: ArgumentParser) -> None:
    """See `Command`."""
    parser.add_argument("recipient", metavar="RECIPIENT", nargs="?", help="a number with + and country code")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", metavar="TEXT", help="a text, within the service window; - reads it from the input")
    what.add_argument("--template", metavar="NAME", help="an approved template")
    what.add_argument(
        "--request", metavar="FILE", help="any message with its recipient, as JSON of the API; - reads the input"
    )
    parser.add_argument("--language", metavar="CODE", help="the template's, exactly as approved: fr, en_US")
    parser.add_argument(
        "--value", metavar="V", action="append", default=[], help="of the body's next place, or NAME=V with --named"
    )
    parser.add_argument("--named", action="store_true", help="the template's places have names: --value day=Monday")
    parser.add_argument("--reply-to", metavar="WAMID", help="a message of the recipient that is quoted")
    parser.add_argument(
        "--at-most-once", action="store_true", help="do not send again where the first attempt's fate is unknown"
    )
    parser.add_argument("--show-recipients", action="store_true", help="show the recipient in full")
    add_policies(parser)
    add_connection(parser)


def run(options: Namespace, screen: Screen, env: Mapping[str, str]) -> int:
    """See `Command`."""
    token = token_of(options, env)
    http = client_of(options, env, token)
    try:
        request = _request(options)
    except InvalidMessageError as error:
        raise failure_of(error, http) from None
    return asyncio.run(_sent(options, screen, env, http, request))


def _request(options: Namespace) -> MessageRequest:
    if options.request is not None:
        for flag in ("recipient", "language", "value", "named", "reply_to"):
            if getattr(options, flag):
                raise Failure(2, f"{flag} does not go with --request", "write it into the request")
        request = MessageRequest.from_payload(_json(_read(options.request)))
        if request.identity_key_hash is not None:
            raise Failure(2, "recipient_identity_key_hash is not sent from here", "leave it out")
        return request
    if options.recipient is None:
        raise Failure(2, "the recipient is missing", "give a number with + and country code")
    if options.text is not None:
        if options.language or options.value or options.named:
            raise Failure(2, "--language, --value and --named are for templates", "leave them out, or give --template")
        text = _read("-") if options.text == "-" else options.text
        return MessageRequest(options.recipient, Text(text), reply_to=options.reply_to)
    if options.language is None:
        raise Failure(2, "the template's language is missing", "give --language, exactly as approved: fr, en_US")
    values = [_named(value) if options.named else TextParameter(value) for value in options.value]
    message = TemplateMessage(options.template, options.language, [TemplateBody(values)] if values else [])
    return MessageRequest(options.recipient, message, reply_to=options.reply_to)


def _named(value: str) -> TextParameter:
    name, separator, text = value.partition("=")
    if not separator:
        raise Failure(2, "with --named each --value must be NAME=V", "as in --value day=Monday")
    return TextParameter(text, name)


def _read(path: str) -> str:
    try:
        if path == "-":
            return sys.stdin.read(_LONGEST)
        with Path(path).open(encoding="utf-8") as file:
            return file.read(_LONGEST)
    except OSError as error:
        raise Failure(2, f"the file of the request cannot be read: {error.strerror}", "see --request") from None
    except UnicodeDecodeError:
        raise Failure(2, "what is to be sent is not in UTF-8", "write it in UTF-8") from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise Failure(2, "the request is no JSON", "write it as the API's documentation has it") from None


async def _sent(
    options: Namespace, screen: Screen, env: Mapping[str, str], http: GraphClient, request: MessageRequest
) -> int:
    async with http:
        service = WhatsAppService(guarded(options, env, http))
        try:
            record = await service.send(
                "resilience-whatsapp",
                request.recipient,
                request.message,
                reply_to=request.reply_to,
                opaque_data=request.opaque_data,
                delivery="at_most_once" if options.at_most_once else "at_least_once",
            )
        except asyncio.CancelledError as error:  # Ctrl-C
            if getattr(getattr(error, "record", None), "status", None) is MessageStatus.UNKNOWN:
                _complain("interrupted, and perhaps sent", _RECONCILE)
            raise
        except Exception as error:
            return _failed(options, screen, http, error)
    _tell(options, screen, record, None)
    return 0


def _failed(options: Namespace, screen: Screen, http: GraphClient, error: Exception) -> int:
    record, told = _record_of(error), failure_of(error, http)
    if screen.as_json:
        _tell(options, screen, record, error)
    if record.status is MessageStatus.UNKNOWN:
        _complain(f"perhaps sent: {told.text}", _RECONCILE)
        return PERHAPS
    _complain(f"not sent: {told.text}", told.suggestion)
    return 3 if isinstance(error, UNREACHABLE) else 1


def _record_of(error: BaseException) -> MessageRecord:
    record: MessageRecord = error.record  # type: ignore[attr-defined] # `WhatsAppService.send` puts it on any error
    return record


def _complain(text: str, fix: str) -> None:
    print(f"resilience-whatsapp: {text}", file=sys.stderr)
    if fix:
        print(f"  {fix}", file=sys.stderr)


def _tell(options: Namespace, screen: Screen, record: MessageRecord, error: Exception | None) -> None:
    shown = record.recipient if options.show_recipients else mask_recipient(record.recipient)
    if screen.as_json:
        screen.document({**asdict(record), "recipient": shown, "graph": _graph(error)})
        return
    what = record.kind if record.template is None else f"template {record.template} {record.language}"
    tries = "1 attempt" if record.attempts == 1 else f"{record.attempts} attempts"
    status = screen.colour("ok", record.status.value)
    screen.say(f"{status}  {record.wamid}  {shown}  {what}  {tries}, {lasting(record.duration)}")
    if record.possible_duplicate:
        screen.say("(the fate of an attempt before is unknown: it may arrive twice)")


def _graph(error: Exception | None) -> dict[str, Any] | None:
    """What the API said, where it said something."""
    if isinstance(error, AmbiguousOutcomeError):
        return {"http_status": error.http_status, "class": error.error_class.name, "advice": error.advice.value}
    if not isinstance(error, GraphError):
        return None
    return {
        "http_status": error.http_status,
        "code": error.code,
        "subcode": error.subcode,
        "class": error.error_class.name,
        "scope": error.scope,
        "advice": error.advice.value,
        "wait": error.wait,
        "fbtrace_id": error.fbtrace_id,
    }
