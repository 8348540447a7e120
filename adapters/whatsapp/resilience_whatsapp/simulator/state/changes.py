"""What happens to templates, tokens, numbers and accounts while the simulator runs. Webhooks tell what Meta would tell.

`simulator.change` has a method for each of the four. `POST /_sim/templates`, `tokens`, `numbers` and `accounts` call
them for other processes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.state.standing import MANAGEMENT, MESSAGING, REVOKED
from resilience_whatsapp.simulator.state.world import Account, Token
from resilience_whatsapp.simulator.templates.life import TemplateChange, TemplateError

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi

QUALITIES = ("GREEN", "YELLOW", "RED", "UNKNOWN")
THROUGHPUTS = ("STANDARD", "HIGH", "NOT_APPLICABLE")
NAME_STATUSES = (
    "APPROVED",
    "AVAILABLE_WITHOUT_REVIEW",
    "DECLINED",
    "EXPIRED",
    "NONE",
    "PENDING_REVIEW",
)
PAYMENTS = ("ok", "refused", "fails_later")
PERMISSIONS = (MESSAGING, MANAGEMENT)


class ChangeError(ValueError):
    """A change that cannot be made; the text names the field."""


class Changes:
    """All of them raise `ChangeError`, and then nothing has changed; what is None stays as it is."""

    def __init__(self, api: GraphApi) -> None:
        self._api = api

    def template(
        self,
        name: str,
        language: str | None = None,
        *,
        waba_id: str | None = None,
        status: str | None = None,
        quality: str | None = None,
        category: str | None = None,
        components: Sequence[Mapping[str, Any]] | None = None,
        reason: str = "NONE",
        after: float = 0.0,
        lasts: float | None = None,
    ) -> int:
        """Change a template, in one language or in all; gives in how many.

        It happens `after` seconds of the API's time. The status is what it was before when it has lasted `lasts`
        seconds. Webhooks tell: `message_template_status_update` with `reason`, `..._components_update`,
        `..._quality_update`, `template_category_update`.
        """
        account = self._account(waba_id)
        _require("after", wire.is_duration(after), "a number of seconds, at least 0")
        _require("lasts", lasts is None or wire.is_duration(lasts), "a number of seconds, at least 0")
        _require(
            "components",
            components is None or _are_components(components),
            "a list of components with a body, buttons in lists",
        )
        try:
            change = TemplateChange(status, quality, category, components, reason, lasts)
        except TemplateError as error:
            raise ChangeError(str(error)) from None
        names = [each.name for each in account.templates if language in (None, each.language)]
        _require("name", name in names, "that of a template of the account, in that language")
        life = self._api.template_life
        if not after:
            return life.change(account, name, language, change)
        self._api.clock.call_later(after, lambda: life.change(account, name, language, change))
        return names.count(name)

    def review(self, *, seconds: float | None = None, status: str | None = None) -> None:
        """How new and edited templates are reviewed from now on: after `seconds`, as `APPROVED` or `REJECTED`."""
        _require("review.seconds", seconds is None or wire.is_duration(seconds), "a number of seconds, at least 0")
        _require("review.status", status in (None, "APPROVED", "REJECTED"), "APPROVED or REJECTED")
        life = self._api.template_life
        life.review_seconds = life.review_seconds if seconds is None else seconds
        life.review_status = status or life.review_status

    def token(
        self,
        value: str | None = None,
        *,
        accounts: Iterable[str] | None = None,
        permissions: Iterable[str] | None = None,
        denied_code: int | None = None,
        expires_in: float | None = None,
        revoked: int | bool | None = None,
    ) -> Token:
        """Change a token, the default one without `value`; one that is not known is added, with all rights.

        `accounts` are the ids that it reaches, `permissions` those of `PERMISSIONS` that it has. A call without its
        permission is answered with `denied_code`: 10, 200 to 299, or 3. It expires `expires_in` seconds of the API's
        time from now (190, subcode 463). `revoked` refuses it at once (190, True is subcode 467; see
        `standing.REVOKED`); False takes it back, and an expiry too.
        """
        world, shown = self._api.world, self._api.token if value is None else value
        reached, granted = _set(accounts), _set(permissions)
        _require("token", bool(shown), "a text")
        _require("accounts", reached is None or reached <= world.accounts.keys(), "a list of ids of accounts")
        _require("permissions", granted is None or granted <= {*PERMISSIONS}, f"of {', '.join(PERMISSIONS)}")
        _require("denied_code", denied_code in (None, 3, 10, *range(200, 300)), "10, 200 to 299, or 3")
        _require("expires_in", expires_in is None or wire.is_duration(expires_in), "a number of seconds, at least 0")
        _require(
            "revoked", revoked in (None, False, True, *REVOKED), f"true, false or of {', '.join(map(str, REVOKED))}"
        )
        token = world.tokens.get(shown) or world.add_token(shown)
        token.account_ids = token.account_ids if reached is None else reached
        token.rights.permissions = token.rights.permissions if granted is None else granted
        token.rights.denied_code = denied_code or token.rights.denied_code
        if revoked is False:
            token.rights.revoked = token.expires_at = None
        elif revoked is not None:
            token.rights.revoked = 467 if revoked is True else revoked
        if expires_in is not None:
            token.expires_at = self._api.clock.now() + expires_in
        return token

    def number(
        self,
        *,
        phone_number_id: str | None = None,
        quality: str | None = None,
        throughput_level: str | None = None,
        registered: bool | None = None,
        certificate: bool | None = None,
        name_status: str | None = None,
        code_verification_status: str | None = None,
        verified_name: str | None = None,
    ) -> None:
        """Change a number, the default one unless said otherwise: its quality and what else its node tells.

        Sends of one that is not `registered` are refused with 133010, without a `certificate` with 131045, with a name
        that was declined or has expired with 131037. A worse quality is told by webhook as `FLAGGED`, a better one as
        `UNFLAGGED` (`phone_number_quality_update`).
        """
        _require("phone_number_id", phone_number_id in (None, *self._api.world.numbers), "that of a number")
        _one_of("quality", quality, QUALITIES)
        _one_of("throughput_level", throughput_level, THROUGHPUTS)
        _one_of("name_status", name_status, NAME_STATUSES)
        number = self._api.number_of(phone_number_id)
        number.throughput_level = throughput_level or number.throughput_level
        told = {
            "registered": registered,
            "certificate": certificate,
            "name_status": name_status,
            "code_verification_status": code_verification_status,
            "verified_name": verified_name,
        }
        for field, value in told.items():
            if value is not None:
                setattr(number.standing, field, value)
        if quality is not None and quality != number.quality:
            worse = QUALITIES.index(quality) > QUALITIES.index(number.quality) and quality != "UNKNOWN"
            number.quality = quality
            news = {
                "display_phone_number": number.digits,
                "event": "FLAGGED" if worse else "UNFLAGGED",
                "current_limit": self._api.messaging_tier,
            }
            self._api.webhooks.tell(number.account, "phone_number_quality_update", news)

    def account(
        self,
        *,
        waba_id: str | None = None,
        payment: str | None = None,
        closed_countries: Iterable[str] | None = None,
        marketing: bool | None = None,
        marketing_api: bool | None = None,
        groups: Mapping[str, int] | None = None,
    ) -> None:
        """Change a business account, the default one unless said otherwise (`standing.AccountStanding`).

        To lock it, or to block it otherwise, is `Simulator.block`.
        """
        account = self._account(waba_id)
        _one_of("payment", payment, PAYMENTS)
        countries = _set(closed_countries)
        _require("closed_countries", all(code.isdecimal() for code in countries or ()), "country codes such as 98")
        told = {
            "payment": payment,
            "closed_countries": countries,
            "marketing": marketing,
            "marketing_api": marketing_api,
            "groups": None if groups is None else dict(groups),
        }
        for field, value in told.items():
            if value is not None:
                setattr(account.standing, field, value)

    def _account(self, waba_id: str | None) -> Account:
        _require("waba_id", waba_id in (None, *self._api.world.accounts), "that of an account")
        return self._api.account if waba_id is None else self._api.world.accounts[waba_id]


def _require(field: str, holds: bool, expected: str) -> None:
    if not holds:
        raise ChangeError(f"{field} must be {expected}")


def _one_of(field: str, value: str | None, known: tuple[str, ...]) -> None:
    _require(field, value in (None, *known), f"one of {', '.join(known)}")


def _set(values: Iterable[str] | None) -> frozenset[str] | None:
    return None if values is None else frozenset(values)


def _are_components(components: Sequence[Mapping[str, Any]]) -> bool:
    buttons = [each.get("buttons") or [] for each in components]
    return any(str(each.get("type", "")).upper() == "BODY" for each in components) and all(
        isinstance(each, Sequence) and all(isinstance(button, Mapping) for button in each) for each in buttons
    )
