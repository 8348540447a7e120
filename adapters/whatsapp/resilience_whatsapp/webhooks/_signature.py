"""Who may post, and the handshake: pure functions, for any web framework."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence

__all__ = ["SIGNATURE_HEADER", "answer_handshake", "sign", "verify_signature"]

SIGNATURE_HEADER = "X-Hub-Signature-256"
_PREFIX = "sha256="


def sign(body: bytes, app_secret: str) -> str:
    """The value of `X-Hub-Signature-256` for these bytes, as the platform makes it; for tests and simulators."""
    return _PREFIX + hmac.new(app_secret.encode(), body, hashlib.sha256).hexdigest()


def verify_signature(body: bytes, signature: str | None, app_secrets: Sequence[str]) -> bool:
    """Whether one of the secrets signed exactly these bytes.

    Give the bytes as they came, before anything parses them: JSON that is written anew has other escapes, and another
    signature. Takes the same time whichever byte differs, and whichever secret fits.
    """
    given = (signature or "").encode("utf-8", "replace")
    fits = [hmac.compare_digest(sign(body, secret).encode(), given) for secret in app_secrets]
    return any(fits)


def answer_handshake(query: Mapping[str, str], verify_token: str) -> str | None:
    """The challenge to answer with status 200; None for a request to answer with 403.

    The platform asks by `GET` when the address is entered, and this request is not signed.
    """
    token = query.get("hub.verify_token", "").encode("utf-8", "replace")
    right = hmac.compare_digest(token, verify_token.encode())
    challenge = query.get("hub.challenge")
    return challenge if right and query.get("hub.mode") == "subscribe" and challenge else None
