"""The media of the simulated numbers: kept by id for a time, downloaded in two hops.

An upload lives 30 days, the media of an inbound message 7. `GET /{media-id}` gives a URL that works for 5 minutes; the
URL carries its end and a signature, so that nothing is kept for it. All times are the API's, in seconds.

Sizes are those of the documentation (in MB of 1024 x 1024 bytes); the types of files are the well-known ones of the
Cloud API, of which the documentation that this project read tells no list: an upload of another type is refused.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Any

from attrs import define, field

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.state.world import Account, Number

UPLOAD_LIFE = 30 * 86_400.0
INBOUND_LIFE = 7 * 86_400.0
URL_LIFE = 300.0

_MB = 1024 * 1024
LIMITS = {"image": 5 * _MB, "audio": 16 * _MB, "video": 16 * _MB, "document": 100 * _MB, "sticker": 500 * 1024}
"""Bytes by kind; a sticker that does not move may have 100 KB, which is not told apart here."""
LARGEST = max(LIMITS.values())

TYPES: dict[str, tuple[str, ...]] = {
    "image": ("image/jpeg", "image/png"),
    "sticker": ("image/webp",),
    "audio": ("audio/aac", "audio/amr", "audio/mp4", "audio/mpeg", "audio/ogg"),
    "video": ("video/3gpp", "video/mp4"),
    "document": (
        "application/msword",
        "application/pdf",
        "application/vnd.ms-excel",
        "application/vnd.ms-powerpoint",
        "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
        "text/plain",
    ),
}
_KINDS = {mime: kind for kind, types in TYPES.items() for mime in types}


@define(eq=False)
class Media:
    """One file."""

    id: str
    number: Number = field(repr=False)
    mime_type: str
    content: bytes = field(repr=False)
    expires_at: float
    sha256: str = field(init=False)
    """Hexadecimal."""

    def __attrs_post_init__(self) -> None:
        self.sha256 = hashlib.sha256(self.content).hexdigest()

    @property
    def account(self) -> Account:
        """Whose it is."""
        return self.number.account

    @property
    def kind(self) -> str | None:
        """`image`, `audio`, ...: of which type of message it can be."""
        return kind_of(self.mime_type)

    def as_webhook(self, caption: str | None) -> dict[str, str]:
        """What an inbound message tells of it; there the checksum is in base64."""
        digest = base64.b64encode(bytes.fromhex(self.sha256)).decode()
        told = {"mime_type": self.mime_type, "sha256": digest, "id": self.id}
        return told if caption is None else {"caption": caption, **told}


def kind_of(mime_type: str) -> str | None:
    """The kind of a MIME type, whatever its parameters; None for one that is not taken."""
    if not mime_type.isprintable():  # it becomes a header of the download
        return None
    return _KINDS.get(mime_type.partition(";")[0].strip().lower())


class MediaStore:
    """The files, by id; each method is told the API's time."""

    def __init__(self, secret: str = "simulator") -> None:
        self._secret = secret.encode()
        self._media: dict[str, Media] = {}
        self._issued = 0

    def upload(self, number: Number, content: bytes, mime_type: str, now: float) -> Media | Refusal:
        """Keep what a client uploads, or say why not."""
        kind = kind_of(mime_type)
        if kind is None:
            known = ", ".join(sorted(_KINDS))
            details = f"Param file must be a file with one of the following types: {known}. Received another type."
            return Refusal(100, details)
        if not content:
            return Refusal(100, "Param file must be a file that is not empty")
        if len(content) > LIMITS[kind]:
            return Refusal(131053, f"File of type {kind} is larger than {LIMITS[kind]} bytes")
        return self._keep(number, content, mime_type, now + UPLOAD_LIFE)

    def receive(
        self, number: Number, content: bytes, mime_type: str, now: float, *, media_id: str | None = None
    ) -> Media:
        """Keep the media of an inbound message; with an id of one's own, if wanted."""
        return self._keep(number, content, mime_type, now + INBOUND_LIFE, media_id)

    def find(self, media_id: str, now: float) -> Media | None:
        """The file, unless its life is over."""
        media = self._media.get(media_id)
        if media is not None and now >= media.expires_at:
            del self._media[media_id]
            return None
        return media

    def delete(self, media_id: str) -> None:
        """Forget a file."""
        self._media.pop(media_id, None)

    def clear(self) -> None:
        """Forget all; no id is given twice."""
        self._media.clear()

    def query_of(self, media: Media, now: float) -> dict[str, str]:
        """What the URL of a download carries."""
        end = str(int(now + URL_LIFE))
        return {"mid": media.id, "ext": end, "hash": self._signature(media.id, end)}

    def of_query(self, query: Mapping[str, str], now: float) -> Media | None:
        """The file of a download; None when the URL is stale or was never given."""
        media_id, end = query.get("mid", ""), query.get("ext", "")
        # As bytes: of texts, only ASCII can be compared.
        if not hmac.compare_digest(self._signature(media_id, end).encode(), query.get("hash", "").encode()):
            return None
        return None if now >= int(end) else self.find(media_id, now)

    def refusal_of(self, kind: str, content: Mapping[str, Any], number: Number, now: float) -> Refusal | None:
        """Why media of a message (`{"id": ...}` or `{"link": ...}`) is refused. Links are not fetched."""
        media_id = content.get("id")
        if media_id is None:
            return None
        media = self.find(media_id, now) if isinstance(media_id, str) else None
        if media is None or media.number is not number:
            return Refusal(100, f"Param {kind}['id'] is not a valid whatsapp business account media attachment ID")
        if kind not in (media.kind, "document"):  # as a document, any file can be sent
            return Refusal(131053, f"Media of type {media.mime_type} cannot be sent as {kind}")
        return None

    def _keep(
        self, number: Number, content: bytes, mime_type: str, expires_at: float, media_id: str | None = None
    ) -> Media:
        self._issued += 1
        new = media_id or str(1_037_543_291_000_000 + self._issued)
        media = Media(new, number, mime_type, content, expires_at)
        self._media[media.id] = media
        return media

    def _signature(self, media_id: str, end: str) -> str:
        return hmac.new(self._secret, f"{media_id}|{end}".encode(), hashlib.sha256).hexdigest()
