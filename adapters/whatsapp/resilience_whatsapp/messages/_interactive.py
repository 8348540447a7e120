"""Interactive messages: buttons, lists, links, flows, products. All have a body, most a header and a footer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias, TypeVar

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._content import Document, Image, Message, Video
from resilience_whatsapp.messages._parts import (
    LINK,
    Check,
    Data,
    Many,
    OneOf,
    Part,
    Words,
    all_different,
    as_tuple,
    plain,
    taken,
)

Header: TypeAlias = str | Image | Video | Document
"""A line of text, or a file."""

InteractiveT = TypeVar("InteractiveT", bound="Interactive")
MAX_LIST_ROWS = 10
MAX_PRODUCTS = 30
_BODY = Words(1024)
_FOOTER = Words(60)
_ID = Words(256)
_FILES: tuple[type[Image | Video | Document], ...] = (Image, Video, Document)


@frozen
class _Head(Check):
    """A header: a text, or a file where `files` are allowed."""

    files: bool = True

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        if self.files and isinstance(value, _FILES):
            return None
        told = Words(60).trouble(value)
        return f"{told}, or an Image, Video or Document" if told is not None and self.files else told


def read_file(value: Any, where: str) -> Image | Video | Document:
    """A file in an object that names its type."""
    for kind in _FILES:
        if isinstance(value, Mapping) and value.get("type") == kind.kind:
            return kind.read(taken(value, where, "type", kind.kind)[kind.kind])
    raise InvalidMessageError(f"{where} must be a text, or an image, video or document")


class Interactive(Message):
    """A message that the recipient can answer by touching it."""

    __slots__ = ()
    kind: ClassVar[str] = "interactive"
    style: ClassVar[str]
    """The API's type within `interactive`."""

    def content(self) -> dict[str, Any]:
        """Header, body, footer and action."""
        found: dict[str, Any] = {"type": self.style}
        header, body, footer = (getattr(self, name, None) for name in ("header", "body", "footer"))
        if header is not None:
            found["header"] = {"type": "text", "text": header} if isinstance(header, str) else header.payload()
        if body is not None:
            found["body"] = {"text": body}
        if footer is not None:
            found["footer"] = {"text": footer}
        return {**found, "action": self._action()}

    def _action(self) -> dict[str, Any]:
        raise NotImplementedError

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        """The arguments that an action stands for."""
        raise NotImplementedError

    @classmethod
    def read(cls: type[InteractiveT], value: Any) -> InteractiveT:
        """The message that `value` stands for; see `Part.read`."""
        given = taken(value, cls.__name__, "type", "header", "body", "footer", "action")
        options = cls._options(given["action"])
        for name in ("body", "footer"):
            if given[name] is not None:
                options[name] = taken(given[name], f"{cls.__name__}.{name}", "text")["text"]
        if given["header"] is not None:
            options["header"] = _read_header(given["header"], f"{cls.__name__}.header")
        try:
            return cls(**options)
        except TypeError:  # it lacks a body, or has a header or footer that there is no field for
            raise InvalidMessageError(f"{cls.__name__} lacks a part, or has one that it cannot have") from None


def _read_header(value: Any, where: str) -> Any:
    if isinstance(value, Mapping) and value.get("type") == "text":
        return taken(value, where, "type", "text")["text"]
    return read_file(value, where)


# --- buttons --------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Reply(Part):
    """A button: `id` comes back by webhook, `title` is shown."""

    id: str = field(validator=_ID)
    title: str = field(validator=Words(20))


@frozen(repr=False)
class ReplyButtons(Interactive):
    """One to three buttons."""

    style: ClassVar[str] = "button"
    body: str = field(validator=_BODY)
    buttons: tuple[Reply, ...] = field(converter=as_tuple, validator=Many((Reply,), 1, 3))
    header: Header | None = field(default=None, validator=_Head())
    footer: str | None = field(default=None, validator=_FOOTER)

    def __attrs_post_init__(self) -> None:
        all_different(self, "buttons", (button.id for button in self.buttons), "id")
        all_different(self, "buttons", (button.title for button in self.buttons), "title")

    def _action(self) -> dict[str, Any]:
        return {"buttons": [{"type": "reply", "reply": button.content()} for button in self.buttons]}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        buttons = taken(action, "ReplyButtons.action", "buttons")["buttons"]
        return {"buttons": [_reply(button) for button in buttons] if isinstance(buttons, list) else (buttons,)}


def _reply(value: Any) -> Reply:
    given = taken(value, "ReplyButtons.buttons", "type", "reply")
    return Reply.read(given["reply"])


@frozen(repr=False)
class CallToAction(Interactive):
    """One button that opens a link."""

    style: ClassVar[str] = "cta_url"
    body: str = field(validator=_BODY)
    display_text: str = field(validator=Words(20))
    url: str = field(validator=LINK)
    header: Header | None = field(default=None, validator=_Head())
    footer: str | None = field(default=None, validator=_FOOTER)

    def _action(self) -> dict[str, Any]:
        return {"name": self.style, "parameters": {"display_text": self.display_text, "url": self.url}}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        given = taken(action, "CallToAction.action", "name", "parameters")
        return taken(given["parameters"], "CallToAction.action.parameters", "display_text", "url")


@frozen(repr=False)
class LocationRequest(Interactive):
    """Asks where the recipient is."""

    style: ClassVar[str] = "location_request_message"
    body: str = field(validator=_BODY)

    def _action(self) -> dict[str, Any]:
        return {"name": "send_location"}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        taken(action, "LocationRequest.action", "name")
        return {}


# --- lists ----------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class Row(Part):
    """A row of a list: `id` comes back by webhook."""

    id: str = field(validator=Words(200))
    title: str = field(validator=Words(24))
    description: str | None = field(default=None, validator=Words(72))


@frozen(repr=False)
class Section(Part):
    """Rows under a title; a list with one section needs no title."""

    rows: tuple[Row, ...] = field(converter=as_tuple, validator=Many((Row,), 1, MAX_LIST_ROWS))
    title: str | None = field(default=None, validator=Words(24))


@frozen(repr=False)
class ListMessage(Interactive):
    """A button that opens a list of at most 10 rows."""

    style: ClassVar[str] = "list"
    body: str = field(validator=Words(4096))
    button: str = field(validator=Words(20))
    sections: tuple[Section, ...] = field(converter=as_tuple, validator=Many((Section,), 1, 10))
    header: str | None = field(default=None, validator=_Head(files=False))
    footer: str | None = field(default=None, validator=_FOOTER)

    def __attrs_post_init__(self) -> None:
        rows = [row for section in self.sections for row in section.rows]
        if len(rows) > MAX_LIST_ROWS:
            raise InvalidMessageError(f"ListMessage.sections must hold at most 10 rows in all, not {len(rows)}")
        all_different(self, "sections", (row.id for row in rows), "id of a row")
        _titled(self, self.sections)

    def _action(self) -> dict[str, Any]:
        return {"button": self.button, "sections": plain(self.sections)}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        given = taken(action, "ListMessage.action", "button", "sections")
        return {"button": given["button"], "sections": Many((Section,), 1, 10).read(given["sections"])}


def _titled(message: Message, sections: tuple[Any, ...]) -> None:
    if len(sections) > 1 and any(section.title is None for section in sections):
        raise InvalidMessageError(f"{type(message).__name__}.sections: with several sections each needs a title")


# --- flows ----------------------------------------------------------------------------------------------------------


@frozen(repr=False, kw_only=True)
class FlowMessage(Interactive):
    """A button that opens a flow: a form in several screens, named by `flow_id` or `flow_name`.

    `flow_action` is `navigate` (to the first screen of `flow_action_payload`) or `data_exchange` (with your endpoint).
    """

    style: ClassVar[str] = "flow"
    body: str = field(validator=_BODY)
    flow_cta: str = field(validator=Words(30))
    flow_id: str | None = field(default=None, validator=_ID)
    flow_name: str | None = field(default=None, validator=_ID)
    flow_token: str | None = field(default=None, validator=Words(4096))
    flow_action: str | None = field(default=None, validator=OneOf(("navigate", "data_exchange")))
    flow_action_payload: Mapping[str, Any] | None = field(default=None, validator=Data())
    mode: str | None = field(default=None, validator=OneOf(("draft", "published")))
    flow_message_version: str = field(default="3", validator=Words(8))
    header: Header | None = field(default=None, validator=_Head())
    footer: str | None = field(default=None, validator=_FOOTER)

    def __attrs_post_init__(self) -> None:
        if (self.flow_id is None) == (self.flow_name is None):
            raise InvalidMessageError("FlowMessage must have either flow_id or flow_name: give one of them")

    def _action(self) -> dict[str, Any]:
        given = {name: getattr(self, name) for name in _FLOW}
        if self.flow_action_payload is not None:
            given["flow_action_payload"] = dict(self.flow_action_payload)
        return {"name": "flow", "parameters": {name: value for name, value in given.items() if value is not None}}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        parameters = taken(action, "FlowMessage.action", "name", "parameters")["parameters"]
        given = taken(parameters, "FlowMessage.action.parameters", *_FLOW)
        return {name: value for name, value in given.items() if value is not None}


_FLOW = (
    "flow_message_version",
    "flow_token",
    "flow_id",
    "flow_name",
    "flow_cta",
    "flow_action",
    "flow_action_payload",
    "mode",
)


# --- products -------------------------------------------------------------------------------------------------------


@frozen(repr=False)
class ProductMessage(Interactive):
    """One product of a catalog."""

    style: ClassVar[str] = "product"
    catalog_id: str = field(validator=_ID)
    product_retailer_id: str = field(validator=_ID)
    body: str | None = field(default=None, validator=_BODY)
    footer: str | None = field(default=None, validator=_FOOTER)

    def _action(self) -> dict[str, Any]:
        return {"catalog_id": self.catalog_id, "product_retailer_id": self.product_retailer_id}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        return taken(action, "ProductMessage.action", "catalog_id", "product_retailer_id")


@frozen(repr=False)
class ProductItem(Part):
    """A product in a section."""

    product_retailer_id: str = field(validator=_ID)


@frozen(repr=False)
class ProductSection(Part):
    """Products under a title."""

    product_items: tuple[ProductItem, ...] = field(converter=as_tuple, validator=Many((ProductItem,), 1, MAX_PRODUCTS))
    title: str | None = field(default=None, validator=Words(24))


@frozen(repr=False)
class ProductList(Interactive):
    """At most 30 products of a catalog, in sections."""

    style: ClassVar[str] = "product_list"
    header: str = field(validator=_Head(files=False))
    body: str = field(validator=_BODY)
    catalog_id: str = field(validator=_ID)
    sections: tuple[ProductSection, ...] = field(converter=as_tuple, validator=Many((ProductSection,), 1, 10))
    footer: str | None = field(default=None, validator=_FOOTER)

    def __attrs_post_init__(self) -> None:
        products = sum(len(section.product_items) for section in self.sections)
        if products > MAX_PRODUCTS:
            raise InvalidMessageError(f"ProductList.sections must hold at most 30 products in all, not {products}")
        _titled(self, self.sections)

    def _action(self) -> dict[str, Any]:
        return {"catalog_id": self.catalog_id, "sections": plain(self.sections)}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        given = taken(action, "ProductList.action", "catalog_id", "sections")
        return {"catalog_id": given["catalog_id"], "sections": Many((ProductSection,), 1, 10).read(given["sections"])}


@frozen(repr=False)
class CatalogMessage(Interactive):
    """A button that opens the catalog, with the picture of one product."""

    style: ClassVar[str] = "catalog_message"
    body: str = field(validator=_BODY)
    thumbnail_product_retailer_id: str | None = field(default=None, validator=_ID)
    footer: str | None = field(default=None, validator=_FOOTER)

    def _action(self) -> dict[str, Any]:
        shown = self.thumbnail_product_retailer_id
        parameters = {} if shown is None else {"parameters": {"thumbnail_product_retailer_id": shown}}
        return {"name": self.style, **parameters}

    @classmethod
    def _options(cls, action: Any) -> dict[str, Any]:
        given = taken(action, "CatalogMessage.action", "name", "parameters")
        if given["parameters"] is None:
            return {}
        return taken(given["parameters"], "CatalogMessage.action.parameters", "thumbnail_product_retailer_id")


STYLES: dict[str, type[Interactive]] = {
    kind.style: kind
    for kind in (
        ReplyButtons,
        CallToAction,
        LocationRequest,
        ListMessage,
        FlowMessage,
        ProductMessage,
        ProductList,
        CatalogMessage,
    )
}
"""All of them, by their type."""


def read_interactive(value: Any) -> Interactive:
    """The interactive message that `value` stands for; its type may be in capitals."""
    style = value.get("type") if isinstance(value, Mapping) else None
    kind = STYLES.get(style.lower()) if isinstance(style, str) else None
    if kind is None:
        raise InvalidMessageError(f"interactive.type must be one of {', '.join(STYLES)}")
    return kind.read(value)
