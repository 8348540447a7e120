"""Media: `POST /{phone-number-id}/media`, `GET` and `DELETE /{media-id}`, and the download from the URL of the `GET`.

The download is no path of the Graph API: it has no version, and answers 401 without a token and 404 when it is stale.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlencode

from aiohttp import BodyPartReader, web
from aiohttp.http import HttpProcessingError
from attrs import frozen

from resilience_whatsapp.simulator import wire
from resilience_whatsapp.simulator.envelopes import Refusal, required, unknown_object
from resilience_whatsapp.simulator.routing import Call, Outcome, Route
from resilience_whatsapp.simulator.state.media import LARGEST, Media, MediaStore
from resilience_whatsapp.simulator.state.standing import MESSAGING
from resilience_whatsapp.simulator.state.world import Number

if TYPE_CHECKING:
    from resilience_whatsapp.simulator.api import GraphApi

DOWNLOADS = "/whatsapp_business/attachments/"


def routes(api: GraphApi) -> list[Route]:
    """Upload, look-up and deletion."""
    media = _Media(api)
    return [
        Route(
            "POST", "media", "media", api.world.numbers.get, media.upload, read=_form, limit="app", permission=MESSAGING
        ),
        Route("GET", "", "media", media.find, media.node, limit="app", permission=MESSAGING),
        Route("DELETE", "", "media", media.find, media.delete, limit="app", permission=MESSAGING),
    ]


def raw_routes(api: GraphApi) -> list[web.RouteDef]:
    """The downloads."""
    return [web.get(DOWNLOADS, _Media(api).download)]


@frozen
class _Form:
    product: str | None = None
    type: str | None = None
    content: bytes | None = None


async def _form(request: web.Request) -> _Form:
    """The fields of an upload; what is no form has none. Of what is too large a part is kept, of others nothing."""
    found: dict[str, bytes] = {}
    declared = None
    try:
        async for part in await request.multipart():
            if not isinstance(part, BodyPartReader) or part.name not in _FIELDS:
                continue
            kept = bytearray()
            while chunk := await part.read_chunk():
                if len(kept) <= (LARGEST if part.name == "file" else _LONGEST):
                    kept += chunk
            found[part.name] = bytes(kept)
            if part.name == "file":
                declared = part.headers.get("Content-Type")
    except (AssertionError, ValueError, HttpProcessingError, web.RequestPayloadError):
        return _Form()
    product, kind = (found[name].decode(errors="replace") if name in found else None for name in _TEXTS)
    return _Form(product, kind or declared, found.get("file"))


_LONGEST = 256
"""Bytes that are kept of a field that is a text."""
_TEXTS = ("messaging_product", "type")
_FIELDS = ("file", *_TEXTS)


class _Media:
    def __init__(self, api: GraphApi) -> None:
        self._api = api

    @property
    def _store(self) -> MediaStore:
        return self._api.media

    def find(self, media_id: str) -> Media | None:
        return self._store.find(media_id, self._api.clock.now())

    def upload(self, call: Call, number: Number) -> Outcome:
        form: _Form = call.body
        if form.product != "whatsapp":
            return required("messaging_product")
        if form.content is None:
            return required("file")
        if form.type is None:
            return required("type")
        media = self._store.upload(number, form.content, form.type, self._api.clock.now())
        return media if isinstance(media, Refusal) else {"id": media.id}

    def node(self, call: Call, media: Media) -> Outcome:
        if not _is_of(call, media):
            return unknown_object("GET", call.object_id)
        query = urlencode(self._store.query_of(media, self._api.clock.now()))
        return {
            "url": f"{wire.origin_of(call.request)}{DOWNLOADS}?{query}",
            "mime_type": media.mime_type,
            "sha256": media.sha256,
            "file_size": len(media.content),
            "id": media.id,
            "messaging_product": "whatsapp",
        }

    def delete(self, call: Call, media: Media) -> Outcome:
        if not _is_of(call, media):
            return unknown_object("DELETE", call.object_id)
        self._store.delete(media.id)
        return {"success": True}

    async def download(self, request: web.Request) -> web.StreamResponse:
        return await self._api.serve_other(request, "media_download", lambda: self._downloaded(request))

    def _downloaded(self, request: web.Request) -> Outcome:
        token = self._api.token_of(request)
        if isinstance(token, Refusal):
            return token
        media = self._store.of_query(request.query, self._api.clock.now())
        if media is None or not token.reaches(media.account):
            return web.Response(status=404)
        return web.Response(body=media.content, headers={"Content-Type": media.mime_type})


def _is_of(call: Call, media: Media) -> bool:
    """Whether the number that the query names, if any, is the one that has the media."""
    return call.request.query.get("phone_number_id", media.number.id) == media.number.id
