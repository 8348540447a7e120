"""Files that messages carry: what the API says of them, how large they may be, and how they are read and written.

Nothing is held in memory as a whole unless the caller gives or wants bytes: files are read and written in pieces, away
from the event loop.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import io
import mimetypes
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, TypeAlias

import aiohttp
from aiohttp.abc import AbstractStreamWriter
from attrs import define, field, frozen

from resilience_whatsapp._envelope import Wait, content_of, text_of
from resilience_whatsapp.errors import AmbiguousOutcomeError, InvalidMessageError, MediaCorruptError, MediaTooLargeError

__all__ = ["DownloadedMedia", "MediaFile", "MediaInfo", "MediaSource", "Sink", "UploadedMedia", "media_limit"]

MediaSource: TypeAlias = bytes | bytearray | memoryview | str | os.PathLike[str] | BinaryIO
"""The bytes, the path of a file, or a binary file that can be rewound."""
MediaTarget: TypeAlias = str | os.PathLike[str] | BinaryIO
"""The path of a file, or a binary file that can be rewound and cut."""

CHUNK = 256 * 1024
"""Bytes that are read or written at once."""
_MB = 1024 * 1024  # whichever megabyte is meant, what the API takes is not refused here
_MIME = re.compile(r"[a-z]+/[a-z0-9][a-z0-9.+_-]*( ?; ?[a-z0-9_-]+=[^\r\n]{1,64})?", re.IGNORECASE)
_ID = re.compile(r"[A-Za-z0-9_.-]{1,256}")
_ANIMATED = 0x02  # the flag in a VP8X header; RFC 9649, section 2.7


@frozen
class MediaInfo:
    """What the API says of a file that it keeps."""

    id: str
    url: str = field(repr=False)
    """Where it is for 5 minutes, for the bearer of the token."""
    mime_type: str | None
    sha256: str | None
    """In hexadecimal digits; None where the API does not tell it in a form that is known."""
    file_size: int | None
    """Bytes."""


@frozen
class UploadedMedia:
    """A file that the API keeps; `id` is what messages refer to."""

    id: str
    sha256: str
    """Of the content, in hexadecimal digits."""
    mime_type: str
    size: int
    """Bytes."""
    reused: bool = False
    """Whether the same content had been uploaded before, and no request was made."""


@frozen
class DownloadedMedia:
    """A file that was downloaded in full."""

    info: MediaInfo
    sha256: str
    """Of what was downloaded."""
    size: int
    """Bytes."""
    verified: bool
    """Whether the API told a checksum; if it did, it is the same."""
    content: bytes | None = field(repr=False)
    """The bytes; None when they went to a file."""


def media_limit(mime_type: str, start: bytes = b"") -> int:
    """Bytes that a file of this type may have: pictures 5 MB, sounds and films 16 MB, stickers 500 kB, others 100 MB.

    A sticker (`image/webp`) that does not move may have 100 kB; its first 21 bytes tell.
    Source: Meta's documentation of media, supported types.
    """
    kind = mime_type.partition(";")[0].strip().lower()
    if kind == "image/webp":
        moves = start[12:16] == b"VP8X" and len(start) > 20 and bool(start[20] & _ANIMATED)
        return (500 if moves or not start else 100) * 1024
    return {"image": 5, "audio": 16, "video": 16}.get(kind.partition("/")[0], 100) * _MB


def media_id_of(media_id: Any) -> str:
    """An id as a part of a path.

    Raises:
        InvalidMessageError: it is none.
    """
    if not isinstance(media_id, str) or not _ID.fullmatch(media_id) or media_id in (".", ".."):
        raise InvalidMessageError("media_id must be the id of an upload, or of a file in a webhook")
    return media_id


# --- what is uploaded -----------------------------------------------------------------------------------------------


@define(eq=False)
class MediaFile:
    """A file to upload, with what had to be read of it to know that it can be.

    Made by `MediaFile.of`. It can be read as often as there are attempts.
    """

    mime_type: str
    filename: str = field(repr=False)
    size: int
    sha256: str
    _open: Callable[[], _Reading] = field(repr=False)

    @classmethod
    async def of(cls, source: MediaSource, mime_type: str | None = None, filename: str | None = None) -> MediaFile:
        """Look at a file: its type, its size, its checksum.

        Raises:
            InvalidMessageError: it is empty, too large for its type, of no known type, or cannot be rewound.
            OSError: it cannot be read.
        """
        path = Path(source) if isinstance(source, (str, os.PathLike)) else None
        name = filename or ("file" if path is None else path.name)
        kind = mime_type or mimetypes.guess_type(name)[0]
        if not isinstance(kind, str) or not _MIME.fullmatch(kind):
            raise InvalidMessageError("upload: mime_type must be given, such as image/png, or follow from the filename")
        opener = _opener(source, path)
        size, digest = await asyncio.to_thread(_look_at, opener, kind)
        return cls(kind, re.sub(r'[\x00-\x1f"\\/]', "_", name), size, digest, opener)

    def body(self) -> FileBody:
        """The file as a part of a request."""
        return FileBody(self)


def _opener(source: Any, path: Path | None) -> Callable[[], _Reading]:
    if path is not None:
        return lambda: _Reading(path.open("rb"), 0, close=True)
    if isinstance(source, (bytes, bytearray, memoryview)):
        kept = bytes(source)
        return lambda: _Reading(io.BytesIO(kept), 0, close=True)
    if not callable(getattr(source, "read", None)):
        raise InvalidMessageError("upload: file must be bytes, a path, or a file that was opened for reading bytes")
    try:
        start = source.tell()
        source.seek(start)
    except (AttributeError, OSError):
        raise InvalidMessageError(
            "upload: file must be one that can be rewound, for another attempt; give its path or its bytes"
        ) from None
    return lambda: _Reading(source, start, close=False)


class _Reading:
    """A file from a position on."""

    def __init__(self, file: Any, start: int, *, close: bool) -> None:
        self.file = file
        self._close = close
        self._start = start

    def __enter__(self) -> _Reading:
        self.file.seek(self._start)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._close:
            self.file.close()

    def size(self) -> int:
        """Bytes from the position to the end."""
        end: int = self.file.seek(0, os.SEEK_END)
        self.file.seek(self._start)
        return end - self._start

    def read(self, most: int) -> bytes:
        """The next bytes."""
        found = self.file.read(most)
        if not isinstance(found, bytes):
            raise InvalidMessageError('upload: file must give bytes: open it with "rb"')
        return found


def _look_at(opener: Callable[[], _Reading], mime_type: str) -> tuple[int, str]:
    with opener() as reading:
        size = reading.size()
        digest = hashlib.sha256()
        chunk = reading.read(CHUNK)
        limit = media_limit(mime_type, chunk[:32])
        if not 1 <= size <= limit:
            raise InvalidMessageError(
                f"upload: a file of type {mime_type} must have 1 to {limit} bytes, not {size}: make it smaller, "
                "or send it as a document of another type"
            )
        read = 0
        while chunk and read < size:
            digest.update(chunk)
            read += len(chunk)
            chunk = reading.read(CHUNK)
        return read, digest.hexdigest()


class FileBody(aiohttp.Payload):
    """A part of a form that is read while it is sent, in pieces, away from the event loop."""

    def __init__(self, file: MediaFile) -> None:
        super().__init__(file, content_type=file.mime_type, filename=file.filename)
        self._size = file.size
        self.trouble: Exception | None = None
        """Why it could not be read as it was announced; the request cannot be right then."""

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        """Not possible without reading it all."""
        raise TypeError("a file that is uploaded is not held in memory")

    async def write(self, writer: AbstractStreamWriter) -> None:
        """Send the file; exactly the bytes whose checksum was taken."""
        file: MediaFile = self._value
        digest, left = hashlib.sha256(), file.size
        try:
            with await asyncio.to_thread(lambda: file._open().__enter__()) as reading:
                while left:
                    chunk = await asyncio.to_thread(reading.read, min(left, CHUNK))
                    digest.update(chunk)
                    left -= len(chunk)
                    if not chunk or (not left and digest.hexdigest() != file.sha256):
                        raise InvalidMessageError("upload: file was changed while it was uploaded; try again")
                    await writer.write(chunk)
        except (OSError, ValueError) as error:
            if not isinstance(error, (ConnectionError, aiohttp.ClientError)):
                self.trouble = error
            raise


# --- what is downloaded ---------------------------------------------------------------------------------------------


class SinkError(Exception):
    """What was downloaded could not be written, because of `trouble`. Nothing of the API's is wrong."""

    def __init__(self, trouble: Exception) -> None:
        super().__init__()
        self.trouble = trouble


class Sink:
    """Where a download goes: to memory, to a path (as a whole or not at all), or into a file of the caller's.

    Args:
        target: see `MediaTarget`; None for memory.
        max_bytes: the most that is taken.
    """

    def __init__(self, target: MediaTarget | None, max_bytes: int) -> None:
        if type(max_bytes) is not int or max_bytes < 1:
            raise InvalidMessageError("download: max_bytes must be a whole number from 1")
        self._path = Path(target) if isinstance(target, (str, os.PathLike)) else None
        self._memory = io.BytesIO() if target is None else None
        self._file: Any = self._memory if self._path is None and target is None else None
        self._start = 0
        self._abandoned = False
        self.max_bytes = max_bytes
        self.size = 0
        self._digest = hashlib.sha256()
        if self._path is None and target is not None:
            self._file = target
            try:
                self._start = self._file.tell()
                self._file.seek(self._start)
                self._file.truncate()
            except (AttributeError, OSError):
                raise InvalidMessageError(
                    "download: to must be a file that can be rewound and cut, for another attempt; give a path"
                ) from None

    @property
    def _beside(self) -> Path:
        assert self._path is not None
        return self._path.with_name(f"{self._path.name}.{os.getpid()}.{id(self):x}.part")

    async def begin(self, announced: int | None) -> None:
        """Start anew: what an earlier attempt wrote is gone.

        Raises:
            MediaTooLargeError: the API says that it is larger than `max_bytes`.
        """
        if announced is not None and announced > self.max_bytes:
            raise MediaTooLargeError(self.max_bytes, announced)
        self.size = 0
        self._digest = hashlib.sha256()
        await self._do(self._rewind)

    def _rewind(self) -> None:
        if self._path is not None:
            self._discard()
            self._file = self._beside.open("wb")
            if self._abandoned:  # while it was being opened: who cancels a download does not wait for the disk
                self._discard()
        else:
            self._file.seek(self._start)
            self._file.truncate()

    async def write(self, chunk: bytes) -> None:
        """Take more.

        Raises:
            MediaTooLargeError: it has more than `max_bytes`.
        """
        self.size += len(chunk)
        if self.size > self.max_bytes:
            raise MediaTooLargeError(self.max_bytes, None)
        self._digest.update(chunk)
        if self._memory is not None:
            self._memory.write(chunk)
        else:
            await self._do(self._file.write, chunk)

    async def _do(self, act: Callable[..., Any], *args: Any) -> None:
        try:
            await asyncio.to_thread(act, *args)
        except (OSError, ValueError) as error:
            raise SinkError(error) from error

    async def finish(self, info: MediaInfo) -> DownloadedMedia:
        """All is there: compare it with what the API told.

        Raises:
            MediaCorruptError: it is not that file.
        """
        sha256 = self._digest.hexdigest()
        if info.sha256 not in (None, sha256) or info.file_size not in (None, self.size):
            raise MediaCorruptError(info.id, self.size, info.file_size)
        if self._path is not None:
            await self._do(self._put_in_place)
        elif self._memory is None:
            await self._do(self._file.flush)
        content = None if self._memory is None else self._memory.getvalue()
        return DownloadedMedia(info, sha256, self.size, info.sha256 is not None, content)

    def _put_in_place(self) -> None:
        assert self._path is not None
        self._file.close()
        self._beside.replace(self._path)
        self._file = None

    def abandon(self) -> None:
        """Leave nothing half done beside a path. The sink takes nothing more."""
        self._abandoned = True
        self._discard()

    def _discard(self) -> None:
        if self._path is not None and self._file is not None:
            with suppress(OSError):
                self._file.close()
            self._beside.unlink(missing_ok=True)
            self._file = None


# --- reading answers ------------------------------------------------------------------------------------------------


def read_upload(status: int, body: bytes, wait: Wait = None) -> str:
    """The id in an answer to an upload, or the error that it means."""
    found = text_of(content_of(status, body, wait), "id")
    if not found:
        raise AmbiguousOutcomeError(status, "an answer without a media id")
    return found


def read_media(status: int, body: bytes, wait: Wait = None) -> MediaInfo:
    """What an answer tells of a file, or the error that it means."""
    content = content_of(status, body, wait)
    found, url = text_of(content, "id"), text_of(content, "url")
    if not found or not url:
        raise AmbiguousOutcomeError(status, "an answer about no file")
    size = content.get("file_size")
    if isinstance(size, str) and size.isascii() and size.isdigit() and len(size) < 16:
        size = int(size)
    told = size if type(size) is int and size >= 0 else None
    return MediaInfo(found, url, text_of(content, "mime_type"), _hexadecimal(text_of(content, "sha256")), told)


def _hexadecimal(checksum: str | None) -> str | None:
    """A SHA-256 in hexadecimal digits; webhooks tell it in base64."""
    if checksum is None:
        return None
    if re.fullmatch("[0-9a-fA-F]{64}", checksum):
        return checksum.lower()
    try:
        raw = base64.b64decode(checksum, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw.hex() if len(raw) == hashlib.sha256().digest_size else None
