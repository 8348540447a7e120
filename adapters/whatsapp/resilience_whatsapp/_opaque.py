"""The text that webhooks echo: the id of our record, and beside it what the user wants to get back.

    <32 hexadecimal digits of the record>               without data of the user's
    <32 hexadecimal digits of the record>:<the data>    with it

The id comes first and has a fixed length, so that whoever looks for records need not know what the data are.
"""

from __future__ import annotations

import re

from resilience_whatsapp.errors import InvalidMessageError

MAX_ECHO = 512
"""Characters that the API takes as `biz_opaque_callback_data`."""
_ID = "[0-9a-f]{32}"
_SEPARATOR = ":"
MAX_OPAQUE_DATA = MAX_ECHO - 32 - len(_SEPARATOR)
"""Characters that are left for the user's own data: 479."""


def check_opaque_data(data: str | None) -> None:
    """Refuse what does not fit beside a record's id.

    Raises:
        InvalidMessageError: it is no text, is empty, or has more than 479 characters.
    """
    if data is None:
        return
    if not isinstance(data, str):
        raise InvalidMessageError("opaque_data must be a text")
    if not 1 <= len(data) <= MAX_OPAQUE_DATA:
        raise InvalidMessageError(f"opaque_data must have 1 to {MAX_OPAQUE_DATA} characters, not {len(data)}")


def join_opaque_data(record_id: str, data: str | None) -> str:
    """What is sent as `biz_opaque_callback_data` for a record; at most 512 characters."""
    return record_id if data is None else f"{record_id}{_SEPARATOR}{data}"


def split_opaque_data(echo: str | None) -> tuple[str | None, str | None]:
    """What a webhook echoed, as the record's id and the user's data.

    The id is None for an echo that no record of ours has begun; the data is then the whole echo.
    """
    if echo is None:
        return None, None
    found = re.fullmatch(f"({_ID})(?:{_SEPARATOR}(.+))?", echo, re.DOTALL)
    return (None, echo) if found is None else (found[1], found[2])
