"""Templates as they are filed for approval: what is fixed, and where the values of a message will go."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar, TypeAlias

from attrs import field, frozen

from resilience_whatsapp.errors import InvalidMessageError
from resilience_whatsapp.messages._parts import (
    LINK,
    Check,
    Data,
    Flag,
    Many,
    Number,
    OneOf,
    Part,
    Words,
    all_different,
    as_tuple,
)
from resilience_whatsapp.messages._template import RawComponent

TEMPLATE_CATEGORIES = ("AUTHENTICATION", "MARKETING", "UTILITY")
_TEXT = Words(1024)
_CAPITALS = Words(64, pattern="[A-Z_]+", form="a name of the API in capitals, such as QUICK_REPLY")


class _Examples(Check):
    """Examples for a button, in the API's form: a text or a list."""

    def trouble(self, value: Any) -> str | None:
        """See `Check`."""
        try:
            good = isinstance(value, (str, list)) and bool(json.dumps(value, allow_nan=False))
        except (TypeError, ValueError, RecursionError):
            good = False
        return None if good else "must be a text or a list of texts"


class _Defined(Part):
    """A component; its type is written in capitals."""

    __slots__ = ()
    kind: ClassVar[str]

    def content(self) -> dict[str, Any]:
        """Its type and what was given."""
        return {"type": self.kind, **super().content()}


@frozen(repr=False)
class HeaderDefinition(_Defined):
    """A header: a line of text, or the place of a file; `example` has a value for each place, in the API's form."""

    kind: ClassVar[str] = "HEADER"
    format: str = field(validator=OneOf(("TEXT", "IMAGE", "VIDEO", "DOCUMENT", "LOCATION", "PRODUCT", "GIF")))
    text: str | None = field(default=None, validator=Words(60))
    example: Mapping[str, Any] | None = field(default=None, validator=Data(), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if (self.format == "TEXT") is (self.text is None):
            raise InvalidMessageError("HeaderDefinition.text must be given with the format TEXT, and only then")


@frozen(repr=False)
class BodyDefinition(_Defined):
    """The body: its text, in which `{{1}}` or `{{name}}` is the place of a value; `example` has one for each.

    The body of an authentication template has no text of yours, only `add_security_recommendation`.
    """

    kind: ClassVar[str] = "BODY"
    text: str | None = field(default=None, validator=_TEXT)
    example: Mapping[str, Any] | None = field(default=None, validator=Data(), kw_only=True)
    add_security_recommendation: bool | None = field(default=None, validator=Flag(), kw_only=True)


@frozen(repr=False)
class FooterDefinition(_Defined):
    """The footer: a text without places, or for an authentication template the minutes that its code is good for."""

    kind: ClassVar[str] = "FOOTER"
    text: str | None = field(default=None, validator=Words(60))
    code_expiration_minutes: int | None = field(default=None, validator=Number(1, 90, whole=True), kw_only=True)

    def __attrs_post_init__(self) -> None:
        if (self.text is None) is (self.code_expiration_minutes is None):
            raise InvalidMessageError("FooterDefinition must have either text or code_expiration_minutes")


@frozen(repr=False)
class ButtonDefinition(Part):
    """A button: its type (`QUICK_REPLY`, `URL`, `PHONE_NUMBER`, `COPY_CODE`, `OTP`, `FLOW`, ...) and what that has."""

    type: str = field(validator=_CAPITALS)
    text: str | None = field(default=None, validator=Words(60))
    url: str | None = field(default=None, validator=LINK, kw_only=True)
    phone_number: str | None = field(default=None, validator=Words(32), kw_only=True)
    otp_type: str | None = field(default=None, validator=_CAPITALS, kw_only=True)
    flow_id: str | None = field(default=None, validator=Words(64), kw_only=True)
    flow_action: str | None = field(default=None, validator=Words(64), kw_only=True)
    navigate_screen: str | None = field(default=None, validator=Words(256), kw_only=True)
    example: str | list[str] | None = field(default=None, validator=_Examples(), kw_only=True)


@frozen(repr=False)
class ButtonsDefinition(_Defined):
    """The buttons, in their order."""

    kind: ClassVar[str] = "BUTTONS"
    buttons: tuple[ButtonDefinition, ...] = field(converter=as_tuple, validator=Many((ButtonDefinition,), 1, 10))


ComponentDefinition: TypeAlias = HeaderDefinition | BodyDefinition | FooterDefinition | ButtonsDefinition
_COMPONENTS: tuple[type[ComponentDefinition], ...] = (
    HeaderDefinition,
    BodyDefinition,
    FooterDefinition,
    ButtonsDefinition,
)
_BY_KIND = {component.kind: component for component in _COMPONENTS}


def _read_component(value: Any) -> ComponentDefinition:
    kind = value.get("type") if isinstance(value, Mapping) else None
    component = _BY_KIND.get(kind.upper()) if isinstance(kind, str) else None
    if component is None:
        raise InvalidMessageError(f"the type of a component must be one of {', '.join(_BY_KIND)}")
    return component.read({key: each for key, each in value.items() if key != "type"})


@frozen(repr=False)
class TemplateDefinition(Part):
    """A template to file for approval, in one language.

    Args:
        name: small letters, digits and underscores.
        language: such as `fr` or `en_US`.
        category: `AUTHENTICATION`, `MARKETING` or `UTILITY`; it decides the price, and the API may change it.
        components: header, body, footer, buttons, each at most once; `RawComponent` for others.
        parameter_format: `NAMED` where the places have names; default numbers.
        message_send_ttl_seconds: seconds after which a message of it is not delivered any more.
    """

    name: str = field(validator=Words(512, pattern="[a-z0-9_]+", form="small letters, digits and underscores"))
    language: str = field(validator=Words(32))
    category: str = field(validator=OneOf(TEMPLATE_CATEGORIES))
    components: tuple[ComponentDefinition | RawComponent, ...] = field(
        converter=as_tuple, validator=Many((*_COMPONENTS, RawComponent), 1, 20, _read_component)
    )
    parameter_format: str | None = field(default=None, validator=OneOf(("NAMED", "POSITIONAL")), kw_only=True)
    message_send_ttl_seconds: int | None = field(
        default=None, validator=Number(-1, 30 * 24 * 3600, whole=True), kw_only=True
    )

    def __attrs_post_init__(self) -> None:
        kinds = [part.kind for part in self.components if not isinstance(part, RawComponent)]
        all_different(self, "components", kinds, "component")

    def __repr__(self) -> str:
        return f"<TemplateDefinition {self.name!r} {self.language!r}>"

    def payload(self) -> dict[str, Any]:
        """The API's JSON."""
        found: dict[str, Any] = self.content()
        return found

    @classmethod
    def from_payload(cls, payload: Any) -> TemplateDefinition:
        """The definition that such JSON stands for.

        Raises:
            InvalidMessageError: it is none, or has components that these types do not know.
        """
        return cls.read(payload)
