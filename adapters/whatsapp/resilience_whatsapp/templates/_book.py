"""The service's book of templates: the list, fresh, old or built in; which are set aside; whether a message fits."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resilience_core import (
    CacheEntry,
    CircuitOpenError,
    CircuitState,
    ConfigurationError,
    Event,
    StaleCache,
    StaleServed,
)
from resilience_whatsapp._closing import Calls
from resilience_whatsapp._delivery import name_of_error
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.errors import GraphTemplateError
from resilience_whatsapp.graph import Template
from resilience_whatsapp.messages import TemplateMessage
from resilience_whatsapp.templates._fit import check_fit
from resilience_whatsapp.templates._list import DEFAULT_TEMPLATES, TemplateList
from resilience_whatsapp.templates._quarantine import Quarantine
from resilience_whatsapp.templates._store import Listing, TemplateKey, TemplateStore

if TYPE_CHECKING:
    from resilience_core.fleet import BaseFleet

TEMPLATES_FRESH_FOR = 3600.0
TEMPLATES_SERVED_FOR = 24 * 3600.0
_REJECTING = (CircuitState.OPEN, CircuitState.FORCED_OPEN)
_MAX_PAGES = 1_000  # a cursor that never ends must not keep us for ever
_MISFITS = (132000, 132012, 132018)
"""The values do not fit, although the listing, if there is one, did not object: it may be out of date."""
_TEMPLATE_TOPICS = (
    "message_template_status_update",
    "message_template_components_update",
    "message_template_quality_update",
    "template_category_update",
)
_UNUSABLE = {"PAUSED": 132015, "DISABLED": 132016}
"""The error that a send of such a template would end with, by the event that a webhook tells."""


class TemplateBook:
    """What a service knows of the templates of its business account.

    Args:
        client, calls: make the requests.
        fresh_for, file, fleet, quarantine, checks: as `templates_fresh_for`, `template_file`, `fleet`,
            `template_quarantine` and `validate_templates` of `WhatsAppService`.
    """

    def __init__(
        self,
        client: ResilientWhatsAppClient,
        calls: Calls,
        *,
        fresh_for: float,
        file: str | os.PathLike[str] | None,
        fleet: BaseFleet | None,
        quarantine: Mapping[int, float],
        checks: bool,
    ) -> None:
        self._client = client
        self._calls = calls
        self._checks = checks
        self._logger = client.logger
        account = getattr(client.http_client, "waba_id", None)
        if fleet is not None and not isinstance(account, str):
            raise ConfigurationError(
                "WhatsAppService: with a fleet the http_client must have a waba_id: templates are shared between those "
                "that send for one business account; give it one, or leave fleet out"
            )
        self._store = TemplateStore(file, fleet, account, self._forgotten_by_others)
        self._cache = StaleCache(
            "whatsapp_templates",
            fresh_for=fresh_for,
            stale_for=max(0.0, TEMPLATES_SERVED_FOR - fresh_for),
            key=lambda: "approved",
            store=self._store,
        )
        self._cache.subscribe(self._log_stale)
        self._listing = self._cache(self._fetch_templates)
        self.era = object()  # another one since the list was forgotten
        self.quarantine = Quarantine(quarantine, self._now, self._store.aside)

    async def approved(self) -> TemplateList:
        """As `WhatsAppService.get_approved_templates`."""
        await self._store.wait_for_others(self._has_fresh_list, self._now)
        before, asked = self._cache.entry(), self._now()
        try:
            listing: Listing = await self._listing()
        except Exception as error:
            self._log_templates("default", error)
            return TemplateList(DEFAULT_TEMPLATES, "default", None)
        if before is not None and before.value is listing:
            if before.freshness == "fresh" and self._lists_rejected():
                self._log_templates("cached", None)  # nobody was asked, and nobody could be
            return TemplateList(listing.templates, "cache", before.age + self._now() - asked)
        return TemplateList(listing.templates, "api", 0.0)

    def forget(self) -> None:
        """As `WhatsAppService.forget_templates`."""
        self.quarantine.clear()
        self._forget_list()

    def handle_update(self, topic: str, name: str | None, language: str | None, event: str | None) -> bool:
        """As `WhatsAppService.handle_template_update`."""
        if topic not in _TEMPLATE_TOPICS:
            return False
        self._forget_list()
        if name is None or language is None:
            return True
        key = (name, language.replace("-", "_"))  # webhooks were seen to write en-US
        code = _UNUSABLE.get((event or "").upper()) if topic == "message_template_status_update" else None
        if code is not None:
            self._set_aside(key, GraphTemplateError(code, None, None, "template"))
        elif topic in _TEMPLATE_TOPICS[:2]:
            self.quarantine.release([key], self._now())
        return True

    def check_fit(self, message: TemplateMessage, payload: Mapping[str, Any]) -> None:
        """Compare a message with the list, if one is kept that is younger than 24 h.

        Raises:
            InvalidMessageError: its parameters do not fit.
        """
        entry = self._cache.entry() if self._checks else None
        if entry is None or entry.freshness == "expired":
            return
        template = entry.value.by_key.get((message.name, message.language))
        if template is not None:
            check_fit(payload[message.kind].get("components", ()), template.components)

    def category_of(self, name: str, language: str) -> str | None:
        """`MARKETING`, `UTILITY`, ... as the kept list says; None where it does not."""
        entry = self._cache.entry()
        template = None if entry is None else entry.value.by_key.get((name, language))
        return None if template is None else template.category

    def learn(self, key: TemplateKey, error: GraphTemplateError, era: object) -> None:
        """What the API's answer to one send says of the template, for the sends after it."""
        if error.local or era is not self.era:
            return  # known already, or an answer of the time before
        self._set_aside(key, error)
        entry = self._cache.entry() if error.code in _MISFITS else None
        if entry is not None:
            entry.value.by_key.pop(key, None)

    def kept(self) -> CacheEntry | None:
        """The list that is kept, of whatever age, and that age."""
        return self._cache.entry()

    def _set_aside(self, key: TemplateKey, error: GraphTemplateError) -> None:
        seconds = self.quarantine.put(key, error)
        if seconds > 0:
            told = {"template": key[0], "language": key[1], "error": name_of_error(error), "seconds": seconds}
            self._logger.warning("Template set aside: sends of it fail at once", extra=told)

    # --- the list --------------------------------------------------------------------------------------------------

    def _forget_list(self) -> None:
        self.era = object()
        self._cache.clear()

    def _forgotten_by_others(self) -> None:
        self.era = object()

    def _has_fresh_list(self) -> bool:
        entry = self._cache.entry()
        return entry is not None and entry.freshness == "fresh"

    async def _fetch_templates(self) -> Listing:
        """The whole listing or nothing: half a list would hide templates that exist.

        Approved ones only, whatever an HTTP client of the user's answers. A listing that was to be forgotten while it
        was under way is asked for again: it may be of the time before.
        """
        self._store.begin(self._now())
        try:
            return await self._fetch_all_pages()
        except BaseException:
            self._store.give_up()
            raise

    async def _fetch_all_pages(self) -> Listing:
        templates: list[Template] = []
        after: str | None = None
        begun, asked = self.era, self._now()
        for _ in range(_MAX_PAGES):
            page = await self._calls.run(self._client.get_templates_page, after)
            templates += (template for template in page.templates if template.status.upper() == "APPROVED")
            after = page.next_after
            if begun is not self.era:
                templates, after, begun, asked = [], None, self.era, self._now()
            elif after is None:
                listing = Listing(tuple(templates))
                self.quarantine.release(listing.by_key, asked)
                return listing
        raise RuntimeError(f"the template listing did not end after {_MAX_PAGES} pages")

    def _lists_rejected(self) -> bool:
        breaker = self._client.breaker_for("templates")
        return breaker is not None and breaker.state in _REJECTING

    def _now(self) -> float:
        return self._cache.clock.wall()

    def _log_stale(self, event: Event) -> None:
        if isinstance(event, StaleServed) and event.error is not None:
            self._log_templates("cached", event.error)

    def _log_templates(self, which: str, error: BaseException | None) -> None:
        """Tell which templates are used; without an error because the circuit is open anyway."""
        if isinstance(error, ConfigurationError):
            self._logger.error("Templates cannot be listed", extra={"error": str(error)})
        circuit_open = error is None or isinstance(error, CircuitOpenError)
        reason = "due to circuit breaker open" if circuit_open else "because fetching them failed"
        told = None if error is None else name_of_error(error)
        self._logger.warning("Using %s templates %s", which, reason, extra={"error": told})
