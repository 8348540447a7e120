"""Who is told by webhook, and how."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlsplit

from attrs import field, frozen

VERSION = "v25.0"


class WebhookError(ValueError):
    """A receiver that cannot be subscribed; the text says why."""


@frozen
class Receiver:
    """Who is told; raises `WebhookError` when it cannot be one."""

    url: str = field(repr=False)
    app_secret: str | None = field(default=None, repr=False)
    """Signs what it gets; None is the simulator's."""
    verify_token: str | None = field(default=None, repr=False)
    """With one, the handshake is made before anything is delivered."""
    version: str = VERSION
    """Of the API, in whose shape it is told."""
    waba_ids: Collection[str] | None = None
    """The accounts that it is told of; None is all."""

    def __attrs_post_init__(self) -> None:
        try:
            parts = urlsplit(self.url)
            good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        except ValueError:  # of an address in brackets, or of the port
            good = False
        if not good:
            raise WebhookError("url must begin with http:// or https:// and name a host, and a port if another one")
        for name in ("url", "app_secret", "verify_token"):
            if not _can_be_sent(getattr(self, name)):
                raise WebhookError(f"{name} must be a text of whole characters")
        if not re.fullmatch(r"v\d{1,4}\.\d{1,4}", self.version):
            raise WebhookError("version must be like v25.0")

    @classmethod
    def from_json(cls, content: Any) -> Receiver:
        """A receiver from the steering route's form; raises `WebhookError`."""
        known = {"url", "app_secret", "verify_token", "version", "waba_ids"}
        if not isinstance(content, Mapping) or not content.keys() <= known or "url" not in content:
            raise WebhookError(f"a receiver must be an object with url and any of {', '.join(sorted(known))}")
        texts = {key: value for key, value in content.items() if key != "waba_ids"}
        ids = content.get("waba_ids")
        if not all(isinstance(text, str) for text in texts.values()):
            raise WebhookError(f"{', '.join(sorted(known - {'waba_ids'}))} must be texts")
        if ids is not None and not (isinstance(ids, list) and all(isinstance(each, str) for each in ids)):
            raise WebhookError("waba_ids must be a list of texts")
        return cls(**content)

    @property
    def shape(self) -> tuple[int, int]:
        """The version as numbers."""
        major, _, minor = self.version[1:].partition(".")
        return int(major), int(minor)


def _can_be_sent(text: str | None) -> bool:
    """Whether it has bytes: half of a surrogate pair, which JSON can bring, has none."""
    return text is None or not any("\ud800" <= sign <= "\udfff" for sign in text)
