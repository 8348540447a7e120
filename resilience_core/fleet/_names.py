"""Names of objects as keys: no two share one, none leaves its prefix, and all keys of one object fall into one slot.

    circuit_breaker:<name>                          the record of a circuit
    rc:{circuit_breaker:<name>}:<what>              its sister keys, and the channel of its changes
    rc:{rate_limiter:<name>}  rc:{rate_limiter:<name>}:<hmac of a key>
    rc:{bulkhead:<name>}      rc:{retry_budget:<name>}
    rc:{shared_store:<name>}  rc:{shared_store:<name>}:log

Where there is a prefix it stands before all of it, and inside of the braces again, for what is between the first braces
decides on the slot of a key in Redis Cluster. Literal names consist of `[A-Za-z0-9_.-]`, up to 128 of them. Others are
percent-encoded byte by byte, and hashed where that is too long: `%` and a letter that is no hexadecimal digit cannot be
the beginning of an encoded one.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any

from resilience_core._errors import ConfigurationError

LONGEST = 128
_LITERAL = re.compile(r"[A-Za-z0-9_.-]{1,128}", re.ASCII)
_PREFIX = re.compile(r"[A-Za-z0-9_.:-]{0,64}", re.ASCII)
_SAFE = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-")


def encoded(name: str) -> str:
    """`name` as part of a key."""
    if _LITERAL.fullmatch(name):
        return name
    raw = name.encode("utf-8", "surrogatepass")
    if len(raw) <= LONGEST:
        text = "".join(chr(byte) if byte in _SAFE else f"%{byte:02X}" for byte in raw)
        if len(text) <= LONGEST:
            return text
    return f"%sha256-{hashlib.sha256(raw).hexdigest()}"


class Keys:
    """The keys of one fleet."""

    def __init__(self, prefix: Any, secret: Any) -> None:
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix must consist of up to 64 of the characters A-Z a-z 0-9 _ . : -, not {prefix!r}"
            )
        if secret is not None and (not isinstance(secret, (str, bytes)) or len(secret) < 16):
            raise ConfigurationError("secret must be text or bytes of 16 or more, the same in all members of the fleet")
        self.prefix: str = prefix
        self._secret = secret.encode() if isinstance(secret, str) else secret
        # Copied for each digest, at half the cost of a new one.
        self._digest: Any = hashlib.sha256() if self._secret is None else hmac.new(self._secret, b"", "sha256")

    def circuit(self, name: str) -> str:
        """Where the record of a circuit is kept."""
        return f"{self.prefix}circuit_breaker:{encoded(name)}"

    def sister(self, key: str, what: str) -> str:
        """Another key of the object that `key` belongs to."""
        return f"{self.prefix}rc:{{{key}}}:{what}"

    def other(self, kind: str, name: str) -> str:
        """Where an object of another kind is kept."""
        return f"{self.prefix}rc:{{{self.prefix}{kind}:{encoded(name)}}}"

    def check_personal(self, whose: str) -> None:
        """Refuse personal keys where there is no secret to hide them with."""
        if self._secret is None:
            raise ConfigurationError(
                f"{whose} needs RedisFleet(secret=...), because its keys are kept in Redis as HMACs of it: give all "
                "members the same one"
            )

    def personal(self, name: str, key: object) -> str:
        """Where the share of one user is kept: nobody learns from the key who that is, nor can find out by trying.

        Raises:
            ConfigurationError: the fleet has no secret, or the key is of a kind that not all processes write alike.
        """
        self.check_personal(f"RateLimiter {name!r}")
        if not _same_everywhere(key):
            raise ConfigurationError(
                f"RateLimiter {name!r}: where a fleet shares the limit, key must answer text, bytes, a number or a "
                f"tuple of them, which all processes write alike; not a {type(key).__name__}"
            )
        assert self._secret is not None
        digest = hmac.new(self._secret, f"{name}\0{key!r}".encode("utf-8", "surrogatepass"), "sha256")
        return f"{self.other('rate_limiter', name)}:{digest.hexdigest()[:32]}"

    def digest(self, name: str, key: str) -> str:
        """What an entry of a store is called: the key may be personal, so it is hidden as well as can be."""
        raw = f"{name}\0{key}".encode("utf-8", "surrogatepass")
        hidden = self._digest.copy()
        hidden.update(raw)
        called: str = hidden.hexdigest()[:32]
        return called


def _same_everywhere(key: object) -> bool:
    if isinstance(key, tuple):
        return all(map(_same_everywhere, key))
    return key is None or type(key) in (str, bytes, int, float, bool)
