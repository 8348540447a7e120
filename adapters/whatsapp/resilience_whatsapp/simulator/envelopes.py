"""Answers in the shape that the Graph API gives them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from aiohttp import web
from attrs import frozen

_CONTENT_TYPE = "application/json"
_traces = itertools.count(1)

MESSAGES: dict[int, str] = {
    1: "An unknown error occurred",
    2: "Service temporarily unavailable",
    4: "Application request limit reached",
    100: "Invalid parameter",
    190: "Invalid OAuth access token - Cannot parse access token",
    80007: "Rate limit issues",
    130429: "Rate limit hit",
    131000: "Something went wrong",
    131008: "Required parameter is missing",
    131009: "Parameter value is not valid",
    131016: "Service unavailable",
    131021: "Recipient cannot be sender",
    131030: "Recipient phone number not in allowed list",
    131042: "Business eligibility payment issue",
    131047: "Re-engagement message",
    131051: "Unsupported message type",
    131056: "(Business Account, Consumer Account) pair rate limit hit",
    132000: "Number of parameters does not match the expected number of params",
    132001: "Template name does not exist in the translation",
    132015: "Template is paused",
}


@frozen
class Refusal:
    """An error answer."""

    status: int
    code: int
    details: str | None = None
    subcode: int | None = None
    is_transient: bool | None = None
    type: str = "OAuthException"
    message: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The envelope."""
        message = self.message or f"(#{self.code}) {MESSAGES.get(self.code, 'Error')}"
        error: dict[str, Any] = {"message": message, "type": self.type, "code": self.code}
        if self.subcode is not None:
            error["error_subcode"] = self.subcode
        if self.details is not None:
            error["error_data"] = {"messaging_product": "whatsapp", "details": self.details}
        if self.is_transient is not None:
            error["is_transient"] = self.is_transient
        error["fbtrace_id"] = f"Asim{next(_traces):018d}"
        return {"error": error}

    def response(self, headers: Mapping[str, str] | None = None) -> web.Response:
        """The answer."""
        return web.json_response(self.as_json(), status=self.status, headers=headers, content_type=_CONTENT_TYPE)


NO_TOKEN = Refusal(401, 190, message="Invalid OAuth access token - Cannot parse access token")


def unknown_object(object_id: str) -> Refusal:
    """What the API answers about an id that does not exist or is not yours: HTTP 400, not 404."""
    text = (
        f"Unsupported request. Object with ID '{object_id}' does not exist, cannot be loaded due to missing "
        "permissions, or does not support this operation"
    )
    return Refusal(400, 100, subcode=33, type="GraphMethodException", message=text)
