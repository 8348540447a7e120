"""Answers in the shape that the Graph API gives them.

An error is `message`, `type`, `code` and `fbtrace_id` always; `error_data` for the codes of the Cloud API (130000 and
above), `error_subcode` and `is_transient` for the codes that were seen with them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from attrs import frozen

from resilience_whatsapp.simulator.codes import SUBCODES, TRANSIENT, title, usual_status

_FIRST_CLOUD_API_CODE = 130000
_traces = itertools.count(1)


@frozen
class Refusal:
    """An error answer; what is None is as the API usually has it for that code."""

    code: int
    details: str | None = None
    status: int | None = None
    subcode: int | None = None
    is_transient: bool | None = None
    type: str = "OAuthException"
    message: str | None = None
    user_title: str | None = None
    """For people: errors of new and edited templates have it; there `error_data` is a text."""

    def as_json(self) -> dict[str, Any]:
        """The envelope."""
        message = self.message or f"(#{self.code}) {title(self.code)}"
        error: dict[str, Any] = {"message": message, "type": self.type}
        transient = True if self.is_transient is None and self.code in TRANSIENT else self.is_transient
        if transient is not None:
            error["is_transient"] = transient
        error["code"] = self.code
        subcode = SUBCODES.get(self.code) if self.subcode is None else self.subcode
        if subcode is not None:
            error["error_subcode"] = subcode
        details = title(self.code) if self.details is None and self.code >= _FIRST_CLOUD_API_CODE else self.details
        if details is not None and self.user_title is not None:
            error |= {"error_data": details, "error_user_title": self.user_title, "error_user_msg": details}
        elif details is not None:
            error["error_data"] = {"messaging_product": "whatsapp", "details": details}
        error["fbtrace_id"] = f"Asim{next(_traces):018d}"
        return {"error": error}

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """The answer."""
        status = usual_status(self.code) if self.status is None else self.status
        return web.json_response(self.as_json(), status=status, headers=headers)


NO_TOKEN = Refusal(190, message="Invalid OAuth access token - Cannot parse access token")
EXPIRED_TOKEN = Refusal(190, subcode=463, message="Error validating access token: Session has expired")


def unknown_object(method: str, object_id: str) -> Refusal:
    """What the API answers about an id that does not exist or is not yours: HTTP 400, not 404."""
    text = (
        f"Unsupported {method.lower()} request. Object with ID '{object_id}' does not exist, cannot be loaded due to "
        "missing permissions, or does not support this operation"
    )
    return Refusal(100, subcode=33, type="GraphMethodException", message=text)


def required(name: str) -> Refusal:
    """A field of the message's outer shape is missing; within its content it is 131008."""
    return Refusal(100, message=f"(#100) The parameter {name} is required.")


def without_code() -> dict[str, Any]:
    """An envelope that lacks what everybody decides by."""
    envelope = Refusal(131000).as_json()
    del envelope["error"]["code"]
    return envelope


def html(status: int) -> web.Response:
    """What a proxy before the API answers."""
    page = f"<!DOCTYPE html><html><head><title>Error</title></head><body><h1>{status}</h1></body></html>"
    return web.Response(text=page, status=status, content_type="text/html")
