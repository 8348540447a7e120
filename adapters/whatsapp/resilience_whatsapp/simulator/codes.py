"""What the API calls each error code that a sender can meet, and the HTTP status that it usually comes with.

The simulator's own table on purpose: it must not learn from the client that is tested against it.
Statuses are the documented ones; where none is documented, the one that was seen, else 400.
"""

from __future__ import annotations

STATUSES_AND_TITLES: dict[int, tuple[int, str]] = {
    0: (401, "We were unable to authenticate the app user"),
    1: (400, "An unknown error occurred"),
    2: (503, "Service temporarily unavailable"),
    3: (500, "Capability or permissions issue"),
    4: (429, "Application request limit reached"),
    10: (403, "Application does not have permission for this action"),
    17: (429, "User request limit reached"),
    33: (400, "Parameter value is not valid"),
    100: (400, "Invalid parameter"),
    104: (401, "An access token is required to request this resource"),
    190: (401, "Invalid OAuth access token"),
    200: (403, "Permissions error"),
    341: (400, "Application limit reached"),
    368: (403, "The action attempted has been deemed abusive or is otherwise disallowed"),
    613: (429, "Calls to this api have exceeded the rate limit"),
    803: (404, "Phone number not found"),
    2500: (400, "Unknown path components"),
    80007: (400, "There have been too many calls to this WhatsApp Business account."),
    130403: (400, "Business blocked the user"),
    130429: (400, "Rate limit hit"),
    130472: (400, "User's number is part of an experiment"),
    130497: (403, "Business account is restricted from messaging users in this country"),
    131000: (500, "Something went wrong"),
    131005: (403, "Access denied"),
    131008: (400, "Required parameter is missing"),
    131009: (400, "Parameter value is not valid"),
    131016: (500, "Service unavailable"),
    131021: (400, "Recipient cannot be sender"),
    131026: (400, "Message undeliverable"),
    131030: (400, "Recipient phone number not in allowed list"),
    131031: (403, "Account has been locked"),
    131037: (400, "Display name not approved"),
    131042: (400, "Business eligibility payment issue"),
    131045: (500, "Incorrect certificate"),
    131047: (400, "Re-engagement message"),
    131048: (400, "Spam rate limit hit"),
    131049: (400, "Message was not delivered to maintain healthy ecosystem engagement"),
    131050: (400, "User has stopped marketing messages from this business"),
    131051: (400, "Unsupported message type"),
    131053: (400, "Media upload error"),
    131055: (400, "Method not allowed"),
    131056: (400, "(Business Account, Consumer Account) pair rate limit hit"),
    131057: (500, "Account in maintenance mode"),
    131062: (400, "Business-scoped user id is not supported for this message"),
    131063: (400, "Marketing templates are disabled on Cloud API"),
    131064: (400, "Messaging limit reached: template classification violations"),
    132000: (400, "Number of parameters does not match the expected number of params"),
    132001: (404, "Template name does not exist in the translation"),
    132005: (400, "Template hydrated text too long"),
    132007: (400, "Template format character policy violated"),
    132008: (400, "Template parameter value invalid"),
    132012: (400, "Template parameter format mismatch"),
    132015: (400, "Template is paused"),
    132016: (400, "Template is disabled"),
    132018: (400, "Template validation error"),
    132068: (400, "Flow is blocked"),
    132069: (400, "Flow is throttled"),
    133010: (400, "Phone number not registered"),
    134011: (400, "WhatsApp Payments terms are pending"),
    134100: (400, "Only marketing messages are supported"),
    134101: (400, "Template is still syncing"),
    134102: (500, "Template unavailable for use"),
    135000: (400, "Generic user error"),
    137000: (400, "Recipient identity key hash mismatch"),
}

SUBCODES = {4: 2446079, 17: 2446079, 131030: 2655007}
"""Codes that were seen with a subcode, though the API is said to have dropped subcodes."""

TRANSIENT = frozenset({2, 4, 17})
"""Codes that were seen with `is_transient: true`."""


def usual_status(code: int) -> int:
    """The HTTP status that `code` comes with."""
    return STATUSES_AND_TITLES.get(code, (400, ""))[0]


def title(code: int) -> str:
    """What the API calls `code`."""
    return STATUSES_AND_TITLES.get(code, (400, "Unknown error"))[1]
