"""Template messages: the values for header, body and buttons of a template that was approved before.

A template has either numbered parameters, in their order, or named ones: each parameter then has a `name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._content import Document, Image, Location, Message, Video
from resilience_whatsapp.messages._interactive import read_file
from resilience_whatsapp.messages._parts import (
    Data,
    Many,
    Number,
    One,
    OneOf,
    Part,
    Words,
    all_different,
    as_tuple,
    plain,
    taken,
)

_NAME = Words(64)
SUB_TYPES = ("quick_reply", "url", "flow", "copy_code", "catalog", "mpm", "voice_call", "order_details")
"""What a button can be; the API writes some in capitals."""


class Parameter(Part):
    """A value for one place of a template."""

    __slots__ = ()
    kind: ClassVar[str]

    def content(self) -> dict[str, Any]:
        """Its type, its name where it has one, and its value."""
        name = getattr(self, "name", None)
        named = {} if name is None else {"parameter_name": name}
        return {"type": self._kind(), **named, self._kind(): self._value()}

    def _kind(self) -> str:
        return self.kind

    def _value(self) -> Any:
        raise NotImplementedError

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        """The arguments that its value stands for."""
        raise NotImplementedError


@frozen(repr=False)
class TextParameter(Parameter):
    """A text."""

    kind: ClassVar[str] = "text"
    text: str = field(validator=Words(32_768))
    name: str | None = field(default=None, validator=_NAME)

    def _value(self) -> str:
        return self.text

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return {"text": value}


@frozen(repr=False)
class CurrencyParameter(Parameter):
    """An amount of money, in thousandths; `fallback_value` is shown where it cannot be written in the user's way."""

    kind: ClassVar[str] = "currency"
    fallback_value: str = field(validator=Words(256))
    code: str = field(validator=Words(3, pattern="[A-Z]{3}", form="a currency of three capitals, as in EUR"))
    amount_1000: int = field(validator=Number(-(10**15), 10**15, whole=True))
    name: str | None = field(default=None, validator=_NAME)

    def _value(self) -> dict[str, Any]:
        return {"fallback_value": self.fallback_value, "code": self.code, "amount_1000": self.amount_1000}

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return taken(value, "currency", "fallback_value", "code", "amount_1000")


_DATE = ("day_of_week", "year", "month", "day_of_month", "hour", "minute", "calendar")


@frozen(repr=False)
class DateTimeParameter(Parameter):
    """A date: what is shown is `fallback_value`; the parts are those that the API knows."""

    kind: ClassVar[str] = "date_time"
    fallback_value: str = field(validator=Words(256))
    day_of_week: int | None = field(default=None, validator=Number(1, 7, whole=True), kw_only=True)
    year: int | None = field(default=None, validator=Number(0, 9999, whole=True), kw_only=True)
    month: int | None = field(default=None, validator=Number(1, 12, whole=True), kw_only=True)
    day_of_month: int | None = field(default=None, validator=Number(1, 31, whole=True), kw_only=True)
    hour: int | None = field(default=None, validator=Number(0, 23, whole=True), kw_only=True)
    minute: int | None = field(default=None, validator=Number(0, 59, whole=True), kw_only=True)
    calendar: str | None = field(default=None, validator=OneOf(("GREGORIAN", "SOLAR_HIJRI")), kw_only=True)
    name: str | None = field(default=None, validator=_NAME)

    def _value(self) -> dict[str, Any]:
        parts = {each: getattr(self, each) for each in ("fallback_value", *_DATE)}
        return {each: value for each, value in parts.items() if value is not None}

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return taken(value, "date_time", "fallback_value", *_DATE)


@frozen(repr=False)
class MediaParameter(Parameter):
    """A picture, film or document, for a header."""

    media: Image | Video | Document = field(validator=One((Image, Video, Document)))
    name: str | None = field(default=None, validator=_NAME)

    def _kind(self) -> str:
        return self.media.kind

    def _value(self) -> Any:
        return self.media.content()


@frozen(repr=False)
class LocationParameter(Parameter):
    """A place, for a header."""

    kind: ClassVar[str] = "location"
    location: Location = field(validator=One((Location,)))
    name: str | None = field(default=None, validator=_NAME)

    def _value(self) -> Any:
        return self.location.content()

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return {"location": Location.read(value)}


@frozen(repr=False)
class ProductParameter(Parameter):
    """A product of a catalog, for a header."""

    kind: ClassVar[str] = "product"
    product_retailer_id: str = field(validator=Words(256))
    catalog_id: str = field(validator=Words(256))

    def _value(self) -> dict[str, Any]:
        return {"product_retailer_id": self.product_retailer_id, "catalog_id": self.catalog_id}

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return taken(value, "product", "product_retailer_id", "catalog_id")


@frozen(repr=False)
class PayloadParameter(Parameter):
    """What a quick-reply button sends back."""

    kind: ClassVar[str] = "payload"
    value: str = field(validator=Words(256))

    def _value(self) -> str:
        return self.value

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return {"value": value}


@frozen(repr=False)
class CouponCodeParameter(Parameter):
    """What a copy-code button copies."""

    kind: ClassVar[str] = "coupon_code"
    code: str = field(validator=Words(20))

    def _value(self) -> str:
        return self.code

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return {"code": value}


@frozen(repr=False)
class ActionParameter(Parameter):
    """What a flow, catalog or product button does, in the API's form."""

    kind: ClassVar[str] = "action"
    action: Mapping[str, Any] = field(validator=Data())

    def _value(self) -> dict[str, Any]:
        return dict(self.action)

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return {"action": value}


@frozen(repr=False)
class OfferParameter(Parameter):
    """When a limited offer ends: milliseconds since 1970."""

    kind: ClassVar[str] = "limited_time_offer"
    expiration_time_ms: int = field(validator=Number(0, 10**15, whole=True))

    def _value(self) -> dict[str, Any]:
        return {"expiration_time_ms": self.expiration_time_ms}

    @classmethod
    def _of(cls, value: Any) -> dict[str, Any]:
        return taken(value, "limited_time_offer", "expiration_time_ms")


_PARAMETERS: dict[str, type[Parameter]] = {
    kind.kind: kind
    for kind in (
        TextParameter,
        CurrencyParameter,
        DateTimeParameter,
        LocationParameter,
        ProductParameter,
        PayloadParameter,
        CouponCodeParameter,
        ActionParameter,
        OfferParameter,
    )
}
_FILES = ("image", "video", "document")


def read_parameter(value: Any) -> Parameter:
    """The parameter that `value` stands for."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    if not isinstance(kind, str) or not (kind in _PARAMETERS or kind in _FILES):
        raise InvalidMessageError(f"the type of a parameter must be one of {', '.join((*_PARAMETERS, *_FILES))}")
    given = taken(value, f"a parameter of type {kind}", "type", "parameter_name", kind)
    options: dict[str, Any] = {} if given["parameter_name"] is None else {"name": given["parameter_name"]}
    if kind in _FILES:
        return MediaParameter(read_file({"type": kind, kind: given[kind]}, kind), **options)
    reader = _PARAMETERS[kind]
    options |= reader._of(given[kind])
    try:
        return reader(**options)
    except TypeError:
        raise InvalidMessageError(f"a parameter of type {kind} cannot have a name") from None


# --- components -----------------------------------------------------------------------------------------------------

_FOR_HEADER = (TextParameter, MediaParameter, LocationParameter, ProductParameter, CurrencyParameter, DateTimeParameter)
_FOR_BODY = (TextParameter, CurrencyParameter, DateTimeParameter)
_FOR_BUTTON = (TextParameter, PayloadParameter, CouponCodeParameter, ActionParameter)


def _parameters(values: Any) -> tuple[Any, ...]:
    """A plain text is a text parameter."""
    return tuple(TextParameter(value) if isinstance(value, str) else value for value in as_tuple(values))


def _named_alike(component: Any) -> None:
    named = [parameter.name is not None for parameter in component.parameters if hasattr(parameter, "name")]
    if any(named) and not all(named):
        raise InvalidMessageError(
            f"{type(component).__name__}.parameters: either each parameter has a name, or none has"
        )
    if any(named):
        all_different(component, "parameters", (parameter.name for parameter in component.parameters), "name")


class Component(Part):
    """Values for one component of a template."""

    __slots__ = ()
    kind: ClassVar[str]

    def content(self) -> dict[str, Any]:
        """The component's type and its parameters."""
        return {"type": self.kind, **super().content()}


@frozen(repr=False)
class TemplateHeader(Component):
    """The header's one parameter."""

    kind: ClassVar[str] = "header"
    parameters: tuple[Any, ...] = field(converter=_parameters, validator=Many(_FOR_HEADER, 1, 1, read_parameter))


@frozen(repr=False)
class TemplateBody(Component):
    """The body's parameters, in their order or by name; a plain text stands for a `TextParameter`."""

    kind: ClassVar[str] = "body"
    parameters: tuple[Any, ...] = field(converter=_parameters, validator=Many(_FOR_BODY, 1, 1000, read_parameter))

    def __attrs_post_init__(self) -> None:
        _named_alike(self)


@frozen(repr=False)
class TemplateOffer(Component):
    """When a limited offer ends."""

    kind: ClassVar[str] = "limited_time_offer"
    parameters: tuple[OfferParameter, ...] = field(
        converter=as_tuple, validator=Many((OfferParameter,), 1, 1, read_parameter)
    )


def _index(value: Any) -> Any:
    return str(value) if type(value) is int else value


@frozen(repr=False)
class TemplateButton(Component):
    """A button's parameter; `index` counts the template's buttons from 0."""

    kind: ClassVar[str] = "button"
    sub_type: str = field(validator=OneOf((*SUB_TYPES, *(each.upper() for each in SUB_TYPES))))
    index: str = field(converter=_index, validator=Words(1, pattern="[0-9]", form="a number from 0 to 9"))
    parameters: tuple[Any, ...] = field(
        default=(), converter=_parameters, validator=Many(_FOR_BUTTON, 0, 10, read_parameter)
    )


def read_component(value: Any) -> Component:
    """The component that `value` stands for; its type may be in capitals."""
    return _component(value, COMPONENTS)


def _card_part(value: Any) -> Component:
    """A component of a card: there is no carousel within a carousel, however deep somebody nests them."""
    return _component(value, _ON_A_CARD)


def _component(value: Any, allowed: tuple[type[Component], ...]) -> Component:
    by_kind = {component.kind: component for component in allowed}
    kind = value.get("type") if isinstance(value, Mapping) else None
    component = by_kind.get(kind.lower()) if isinstance(kind, str) else None
    if component is None:
        raise InvalidMessageError(f"the type of a component must be one of {', '.join(by_kind)}")
    return component.read({key: each for key, each in value.items() if key != "type"})


CardPart: TypeAlias = TemplateHeader | TemplateBody | TemplateButton
_ON_A_CARD: tuple[type[CardPart], ...] = (TemplateHeader, TemplateBody, TemplateButton)


@frozen(repr=False)
class TemplateCard(Part):
    """One card of a carousel; `card_index` counts them from 0."""

    card_index: int = field(validator=Number(0, 9, whole=True))
    components: tuple[CardPart, ...] = field(
        converter=as_tuple,
        validator=Many(_ON_A_CARD, 1, 12, _card_part),
    )


@frozen(repr=False)
class TemplateCarousel(Component):
    """Cards that are shown side by side."""

    kind: ClassVar[str] = "carousel"
    cards: tuple[TemplateCard, ...] = field(converter=as_tuple, validator=Many((TemplateCard,), 1, 10))

    def __attrs_post_init__(self) -> None:
        all_different(self, "cards", (card.card_index for card in self.cards), "card_index")


@frozen(repr=False)
class RawComponent(Part):
    """A component in the API's own form, passed on as it is: for what these types do not know."""

    value: Mapping[str, Any] = field(validator=Data())

    def content(self) -> dict[str, Any]:
        """As it was given."""
        return dict(self.value)


COMPONENTS: tuple[type[Component], ...] = (
    TemplateHeader,
    TemplateBody,
    TemplateOffer,
    TemplateButton,
    TemplateCarousel,
)


@frozen(repr=False)
class TemplateMessage(Message):
    """An approved template: its name, its language exactly as approved (`fr`, `en_US`), and its parameters."""

    kind: ClassVar[str] = "template"
    name: str = field(validator=Words(512))
    language: str = field(validator=Words(32))
    components: tuple[Component | RawComponent, ...] = field(
        default=(), converter=as_tuple, validator=Many((*COMPONENTS, RawComponent), 0, 20, read_component)
    )

    def __attrs_post_init__(self) -> None:
        if len(self.components) < 2:
            return  # nothing can be there twice
        once = [part.kind for part in self.components if not isinstance(part, (TemplateButton, RawComponent))]
        all_different(self, "components", once, "component but buttons")
        buttons = (part.index for part in self.components if isinstance(part, TemplateButton))
        all_different(self, "components", buttons, "index of a button")

    def __repr__(self) -> str:
        return f"<TemplateMessage {self.name!r} {self.language!r}>"

    def content(self) -> dict[str, Any]:
        """Name, language, and components where there are any."""
        parts = {"components": plain(self.components)} if self.components else {}
        return {"name": self.name, "language": {"code": self.language}, **parts}

    @classmethod
    def read(cls, value: Any) -> TemplateMessage:
        """As `Part.read`; a `policy` of the language, which old requests have, is left out."""
        given = taken(value, "TemplateMessage", "name", "language", "components")
        language = taken(given["language"], "TemplateMessage.language", "code", "policy")["code"]
        return super().read({**given, "language": language})
