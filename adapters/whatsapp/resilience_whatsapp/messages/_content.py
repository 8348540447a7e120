"""Messages without structure: text, media, location, contacts, reaction."""

from __future__ import annotations

from typing import Any, ClassVar

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._parts import LINK, WAMID, Flag, Many, Number, One, Part, Words, as_tuple, plain

MAX_TEXT = 4096
MAX_CAPTION = 1024
_MAX_CONTACTS = 257
_SHORT = Words(1024)


class Message(Part):
    """What is sent, whoever gets it."""

    __slots__ = ()
    kind: ClassVar[str]
    """The API's `type`."""

    def payload(self) -> dict[str, Any]:
        """The API's JSON of the message: its type, and its content under that name."""
        return {"type": self.kind, self.kind: self.content()}


@frozen(repr=False)
class Text(Message):
    """A text, of at most 4,096 characters; with `preview_url` its first link is shown with a preview."""

    kind: ClassVar[str] = "text"
    body: str = field(validator=Words(MAX_TEXT))
    preview_url: bool = field(default=False, validator=Flag())


@frozen(repr=False, kw_only=True)
class Media(Message):
    """A file: either the `id` of an upload, or a `link` that the platform fetches."""

    id: str | None = field(default=None, validator=Words(256, pattern=r"\S+", form="an id without blanks"))
    link: str | None = field(default=None, validator=LINK)

    def __attrs_post_init__(self) -> None:
        if (self.id is None) == (self.link is None):
            raise InvalidMessageError(f"{type(self).__name__} must have either id or link: give one of them")


@frozen(repr=False, kw_only=True)
class Image(Media):
    """A picture."""

    kind: ClassVar[str] = "image"
    caption: str | None = field(default=None, validator=Words(MAX_CAPTION))


@frozen(repr=False, kw_only=True)
class Video(Media):
    """A film."""

    kind: ClassVar[str] = "video"
    caption: str | None = field(default=None, validator=Words(MAX_CAPTION))


@frozen(repr=False, kw_only=True)
class Document(Media):
    """A file of any kind, with the name under which it is shown."""

    kind: ClassVar[str] = "document"
    caption: str | None = field(default=None, validator=Words(MAX_CAPTION))
    filename: str | None = field(default=None, validator=Words(240))


@frozen(repr=False, kw_only=True)
class Audio(Media):
    """A sound; with `voice` it is shown as a voice message."""

    kind: ClassVar[str] = "audio"
    voice: bool | None = field(default=None, validator=Flag())


@frozen(repr=False, kw_only=True)
class Sticker(Media):
    """A sticker."""

    kind: ClassVar[str] = "sticker"


@frozen(repr=False)
class Location(Message):
    """A place on the map; degrees."""

    kind: ClassVar[str] = "location"
    latitude: float = field(validator=Number(-90, 90))
    longitude: float = field(validator=Number(-180, 180))
    name: str | None = field(default=None, validator=Words(1000))
    address: str | None = field(default=None, validator=Words(1000))

    @classmethod
    def read(cls, value: Any) -> Location:
        """As `Part.read`; the API also takes degrees as texts."""
        if isinstance(value, dict):
            value = {key: _degrees(each) if key in ("latitude", "longitude") else each for key, each in value.items()}
        return super().read(value)


def _degrees(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


@frozen(repr=False)
class Reaction(Message):
    """An emoji on a message of the recipient; the empty text takes it away."""

    kind: ClassVar[str] = "reaction"
    message_id: str = field(validator=WAMID)
    emoji: str = field(validator=Words(32, 0))


# --- contacts -------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class ContactName(Part):
    """A name: as a whole, and at least one part of it."""

    formatted_name: str = field(validator=_SHORT)
    first_name: str | None = field(default=None, validator=_SHORT)
    last_name: str | None = field(default=None, validator=_SHORT)
    middle_name: str | None = field(default=None, validator=_SHORT)
    suffix: str | None = field(default=None, validator=_SHORT)
    prefix: str | None = field(default=None, validator=_SHORT)

    def __attrs_post_init__(self) -> None:
        if not any((self.first_name, self.last_name, self.middle_name, self.suffix, self.prefix)):
            raise InvalidMessageError("ContactName must have a part besides formatted_name: give first_name")


@frozen(repr=False)
class ContactPhone(Part):
    """A number on the card, as it is to be shown; `wa_id` makes it one that can be written to."""

    phone: str | None = field(default=None, validator=_SHORT)
    type: str | None = field(default=None, validator=_SHORT)
    wa_id: str | None = field(default=None, validator=_SHORT)


@frozen(repr=False)
class ContactEmail(Part):
    """An e-mail address."""

    email: str | None = field(default=None, validator=_SHORT)
    type: str | None = field(default=None, validator=_SHORT)


@frozen(repr=False)
class ContactUrl(Part):
    """A web address."""

    url: str | None = field(default=None, validator=_SHORT)
    type: str | None = field(default=None, validator=_SHORT)


@frozen(repr=False)
class ContactAddress(Part):
    """A postal address."""

    street: str | None = field(default=None, validator=_SHORT)
    city: str | None = field(default=None, validator=_SHORT)
    state: str | None = field(default=None, validator=_SHORT)
    zip: str | None = field(default=None, validator=_SHORT)
    country: str | None = field(default=None, validator=_SHORT)
    country_code: str | None = field(default=None, validator=_SHORT)
    type: str | None = field(default=None, validator=_SHORT)


@frozen(repr=False)
class ContactOrganisation(Part):
    """Where somebody works."""

    company: str | None = field(default=None, validator=_SHORT)
    department: str | None = field(default=None, validator=_SHORT)
    title: str | None = field(default=None, validator=_SHORT)


@frozen(repr=False)
class Contact(Part):
    """The card of one person."""

    name: ContactName = field(validator=One((ContactName,)))
    phones: tuple[ContactPhone, ...] = field(default=(), converter=as_tuple, validator=Many((ContactPhone,), 0, 100))
    emails: tuple[ContactEmail, ...] = field(default=(), converter=as_tuple, validator=Many((ContactEmail,), 0, 100))
    urls: tuple[ContactUrl, ...] = field(default=(), converter=as_tuple, validator=Many((ContactUrl,), 0, 100))
    addresses: tuple[ContactAddress, ...] = field(
        default=(), converter=as_tuple, validator=Many((ContactAddress,), 0, 100)
    )
    org: ContactOrganisation | None = field(default=None, validator=One((ContactOrganisation,)))
    birthday: str | None = field(
        default=None, validator=Words(10, pattern=r"[0-9]{4}-[0-9]{2}-[0-9]{2}", form="a date of the form 2001-12-31")
    )


@frozen(repr=False)
class Contacts(Message):
    """Cards of 1 to 257 people."""

    kind: ClassVar[str] = "contacts"
    contacts: tuple[Contact, ...] = field(converter=as_tuple, validator=Many((Contact,), 1, _MAX_CONTACTS))

    def content(self) -> list[Any]:
        """A list, unlike that of other messages."""
        content: list[Any] = plain(self.contacts)
        return content

    @classmethod
    def read(cls, value: Any) -> Contacts:
        """As `Part.read`, from a list."""
        return super().read({"contacts": value})
