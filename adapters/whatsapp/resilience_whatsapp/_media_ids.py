"""Which content was uploaded before, so that it is uploaded once: ids by checksum, type and sending number."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any

from attrs import asdict, evolve

from resilience_core import StaleCache
from resilience_whatsapp.client import ResilientWhatsAppClient
from resilience_whatsapp.media import MediaFile, UploadedMedia

MEDIA_IDS_FRESH_FOR = 29 * 24 * 3600.0
"""Seconds; the API keeps a file for 30 days, and a message must still find it some time after it was sent."""
MAX_MEDIA_IDS = 1_000


class MediaIds:
    """Uploads each content once; who asks while it is being uploaded waits for that upload.

    Args:
        client: makes the uploads.
        file: where the ids are kept so that they outlive the process; one file for each sending number.
    """

    def __init__(self, client: ResilientWhatsAppClient, file: str | os.PathLike[str] | None) -> None:
        self._client = client
        self._number = getattr(client.http_client, "phone_number_id", None)
        self._known: OrderedDict[str, UploadedMedia] = OrderedDict()
        self._cache = StaleCache(
            "whatsapp_media_ids",
            fresh_for=MEDIA_IDS_FRESH_FOR,
            stale_for=0.0,
            key=self._key,
            max_entries=MAX_MEDIA_IDS,
            file=file,
            encode=asdict,
            decode=self._decoded,
        )
        self._uploads = self._cache(self._upload)

    async def upload(self, file: MediaFile) -> UploadedMedia:
        """The id of this content: from before, or from an upload now."""
        before = self._cache.entry(file)
        found: UploadedMedia = await self._uploads(file)
        reused = before is not None and before.value is found
        self._noted(found)
        return evolve(found, reused=reused)

    def forget(self, media_id: str | None = None) -> None:
        """Forget one id, or all: the next upload of that content makes a request."""
        if media_id is None:
            self._known.clear()
            self._cache.clear()
        elif (media := self._known.pop(media_id, None)) is not None:
            self._cache.invalidate(media)

    async def _upload(self, file: MediaFile) -> UploadedMedia:
        media_id: str = await self._client.call("upload_media", file)
        return self._noted(UploadedMedia(media_id, file.sha256, file.mime_type, file.size))

    def _key(self, media: MediaFile | UploadedMedia) -> Hashable:
        return (self._number, media.sha256, media.mime_type)

    def _decoded(self, row: dict[str, Any]) -> UploadedMedia:
        return self._noted(UploadedMedia(**row))

    def _noted(self, media: UploadedMedia) -> UploadedMedia:
        """So that a deletion, which knows the id only, finds the content; by last use, as the cache keeps them."""
        self._known[media.id] = media
        self._known.move_to_end(media.id)
        if len(self._known) > MAX_MEDIA_IDS:
            self._known.popitem(last=False)
        return media
