"""What besides limits decides whether a number may send, and what a token may do. All attributes may be changed.

| state | a send is answered with |
|---|---|
| `NumberStanding.registered` is False | 133010 |
| `NumberStanding.certificate` is False | 131045, HTTP 500 |
| `NumberStanding.name_status` is neither `APPROVED` nor under review | 131037 |
| `AccountStanding.payment` is `refused` | 131042 |
| `AccountStanding.payment` is `fails_later` | 200, and 131042 by webhook |
| the recipient is in one of `AccountStanding.closed_countries` | 130497 |
| a marketing template, and `AccountStanding.marketing` is False | 131063 |
| the same through `marketing_messages`, and `AccountStanding.marketing_api` is False | 134102, HTTP 500 |
| a group that `AccountStanding.groups` does not have, has suspended, or has with one member | 131041, 131207, 131020 |

An account that is locked (131031), blocked (368) or over its limit for wrong categories (131064) has a `Block`.
"""

from __future__ import annotations

from typing import Any, Literal

from attrs import define

from resilience_whatsapp.simulator.envelopes import Refusal

LOCKED = 131031
MESSAGING = "whatsapp_business_messaging"
MANAGEMENT = "whatsapp_business_management"
_NAMES_IN_ORDER = ("APPROVED", "AVAILABLE_WITHOUT_REVIEW", "PENDING_REVIEW")


@define
class NumberStanding:
    """Of a number, what the API tells in its node."""

    verified_name: str = "Simulator"
    name_status: str = "APPROVED"
    code_verification_status: str = "VERIFIED"
    registered: bool = True
    certificate: bool = True

    def code(self) -> int | None:
        """The code that every send of the number is refused with; None when it may send."""
        if not self.registered:
            return 133010
        if not self.certificate:
            return 131045
        return None if self.name_status in _NAMES_IN_ORDER else 131037


@define
class AccountStanding:
    """Of a business account."""

    name: str = "Simulator"
    payment: Literal["ok", "refused", "fails_later"] = "ok"
    closed_countries: frozenset[str] = frozenset()
    """Country codes (`"98"`) whose users may not be written to."""
    marketing: bool = True
    """Whether marketing templates may be sent through `messages`."""
    marketing_api: bool = True
    """Whether they may be sent through `marketing_messages`."""
    groups: dict[str, int] | None = None
    """How many users each group has besides the number; 0 is a group without any, -1 one that is suspended. None: every
    group exists."""

    def refusal_of(self, payload: dict[str, Any]) -> Refusal | None:
        """Why a message is refused, whatever its content."""
        if self.payment == "refused":
            return Refusal(131042)
        to = payload.get("to")
        if not isinstance(to, str) or not to:
            return None
        if payload.get("recipient_type") == "group":
            return self._group(to)
        digits = "".join(sign for sign in to if sign.isdigit())
        return Refusal(130497) if any(digits.startswith(code) for code in self.closed_countries) else None

    def _group(self, group: str) -> Refusal | None:
        if self.groups is None:
            return None
        users = self.groups.get(group)
        if users is None:
            return Refusal(131041)
        if users < 0:
            return Refusal(131207)
        return None if users else Refusal(131020)


@define
class Rights:
    """Of a token."""

    permissions: frozenset[str] = frozenset({MESSAGING, MANAGEMENT})
    denied_code: int = 10
    """What is answered where a permission is missing: 10, 200 to 299, or 3 (with HTTP 500)."""
    revoked: int | None = None
    """The subcode of a token that is not valid any more, one of `REVOKED`: 460 after a change of password, ..."""

    def refusal_of(self, permission: str) -> Refusal | None:
        """Why a call that needs this permission is refused."""
        return None if permission in self.permissions else Refusal(self.denied_code)


REVOKED = {
    458: "The user has not authorized application",
    459: "The user is checkpointed",
    460: "The session has been invalidated because the user changed the password",
    463: "Session has expired",
    464: "The user is not a confirmed user",
    467: "The access token is invalid",
    492: "The session is invalid",
}
"""What the API says with each subcode of 190, in our words."""


def revoked(subcode: int) -> Refusal:
    """The answer to a token that is not valid any more."""
    return Refusal(190, subcode=subcode, message=f"Error validating access token: {REVOKED[subcode]}")


def news_of_block(code: int, until: float | None) -> dict[str, Any]:
    """What `account_update` tells of a block of an account: one that is locked is disabled, others are restrictions."""
    if code == LOCKED:
        return news_of_ban("DISABLE")
    restriction: dict[str, Any] = {"restriction_type": "RESTRICTED_BIZ_INITIATED_MESSAGING"}
    if until is not None:
        restriction["expiration"] = int(until)
    return {"event": "ACCOUNT_RESTRICTION", "restriction_info": [restriction]}


def news_of_ban(state: str) -> dict[str, Any]:
    """What `account_update` tells of an account that is disabled (`DISABLE`) or comes back (`REINSTATE`)."""
    return {"event": "DISABLED_UPDATE", "ban_info": {"waba_ban_state": state}}
