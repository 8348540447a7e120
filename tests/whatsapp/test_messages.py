"""Each message type writes exactly the API's JSON, refuses what the API would refuse, and shows nothing."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from resilience_core import ConfigurationError
from resilience_whatsapp import WhatsAppError, messages
from resilience_whatsapp.messages import (
    ActionParameter,
    Audio,
    CallToAction,
    CatalogMessage,
    Contact,
    ContactAddress,
    ContactEmail,
    ContactName,
    ContactOrganisation,
    ContactPhone,
    Contacts,
    ContactUrl,
    CouponCodeParameter,
    CurrencyParameter,
    DateTimeParameter,
    Document,
    FlowMessage,
    GroupId,
    Image,
    InvalidMessageError,
    ListMessage,
    Location,
    LocationParameter,
    LocationRequest,
    MarkAsRead,
    MarketingRequest,
    MediaParameter,
    Message,
    MessageRequest,
    OfferParameter,
    PayloadParameter,
    PhoneNumber,
    ProductItem,
    ProductList,
    ProductMessage,
    ProductParameter,
    ProductSection,
    RawComponent,
    Reaction,
    Reply,
    ReplyButtons,
    Row,
    Section,
    Sticker,
    TemplateBody,
    TemplateButton,
    TemplateCard,
    TemplateCarousel,
    TemplateDefinition,
    TemplateHeader,
    TemplateMessage,
    TemplateOffer,
    Text,
    TextParameter,
    UserId,
    Video,
)
from tests._cost import size
from tests.whatsapp.corpus import Sample, needs_corpus, samples

TO = "+33612345678"
LINK = "https://example.org/a.png"
SECRET = "Zebulon"

MESSAGES: list[tuple[Message, Any]] = [
    (Text(SECRET, preview_url=True), {"type": "text", "text": {"body": SECRET, "preview_url": True}}),
    (Image(id="1", caption=SECRET), {"type": "image", "image": {"id": "1", "caption": SECRET}}),
    (Video(link=LINK), {"type": "video", "video": {"link": LINK}}),
    (Audio(id="1", voice=True), {"type": "audio", "audio": {"id": "1", "voice": True}}),
    (
        Document(link=LINK, filename="a.pdf", caption="c"),
        {"type": "document", "document": {"link": LINK, "caption": "c", "filename": "a.pdf"}},
    ),
    (Sticker(id="1"), {"type": "sticker", "sticker": {"id": "1"}}),
    (
        Location(48.5, 2, "n", "a"),
        {"type": "location", "location": {"latitude": 48.5, "longitude": 2, "name": "n", "address": "a"}},
    ),
    (Reaction("wamid.1", "😀"), {"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": "😀"}}),
    (Reaction("wamid.1", ""), {"type": "reaction", "reaction": {"message_id": "wamid.1", "emoji": ""}}),
    (
        Contacts(
            [
                Contact(
                    ContactName(SECRET, first_name="Z"),
                    phones=[ContactPhone("+33 6", "CELL", "336")],
                    emails=[ContactEmail("a@b.c")],
                    urls=[ContactUrl(LINK)],
                    addresses=[ContactAddress(city="Paris")],
                    org=ContactOrganisation("c"),
                    birthday="2001-12-31",
                )
            ]
        ),
        {
            "type": "contacts",
            "contacts": [
                {
                    "name": {"formatted_name": SECRET, "first_name": "Z"},
                    "phones": [{"phone": "+33 6", "type": "CELL", "wa_id": "336"}],
                    "emails": [{"email": "a@b.c"}],
                    "urls": [{"url": LINK}],
                    "addresses": [{"city": "Paris"}],
                    "org": {"company": "c"},
                    "birthday": "2001-12-31",
                }
            ],
        },
    ),
    (
        ReplyButtons(SECRET, [Reply("y", "Yes"), Reply("n", "No")], header="h", footer="f"),
        {
            "type": "interactive",
            "interactive": {
                "type": "button",
                "header": {"type": "text", "text": "h"},
                "body": {"text": SECRET},
                "footer": {"text": "f"},
                "action": {
                    "buttons": [
                        {"type": "reply", "reply": {"id": "y", "title": "Yes"}},
                        {"type": "reply", "reply": {"id": "n", "title": "No"}},
                    ]
                },
            },
        },
    ),
    (
        ListMessage("b", "open", [Section([Row("1", "one", "d"), Row("2", "two")], "s")], header="h"),
        {
            "type": "interactive",
            "interactive": {
                "type": "list",
                "header": {"type": "text", "text": "h"},
                "body": {"text": "b"},
                "action": {
                    "button": "open",
                    "sections": [
                        {
                            "rows": [
                                {"id": "1", "title": "one", "description": "d"},
                                {"id": "2", "title": "two"},
                            ],
                            "title": "s",
                        }
                    ],
                },
            },
        },
    ),
    (
        CallToAction("b", "go", LINK, header=Document(id="1")),
        {
            "type": "interactive",
            "interactive": {
                "type": "cta_url",
                "header": {"type": "document", "document": {"id": "1"}},
                "body": {"text": "b"},
                "action": {"name": "cta_url", "parameters": {"display_text": "go", "url": LINK}},
            },
        },
    ),
    (
        LocationRequest("where?"),
        {
            "type": "interactive",
            "interactive": {
                "type": "location_request_message",
                "body": {"text": "where?"},
                "action": {"name": "send_location"},
            },
        },
    ),
    (
        FlowMessage(
            body="b", flow_cta="go", flow_name="f", mode="draft", flow_action_payload=MappingProxyType({"a": 1})
        ),
        {
            "type": "interactive",
            "interactive": {
                "type": "flow",
                "body": {"text": "b"},
                "action": {
                    "name": "flow",
                    "parameters": {
                        "flow_message_version": "3",
                        "flow_name": "f",
                        "flow_cta": "go",
                        "mode": "draft",
                        "flow_action_payload": {"a": 1},
                    },
                },
            },
        },
    ),
    (
        ProductMessage("c", "p"),
        {
            "type": "interactive",
            "interactive": {"type": "product", "action": {"catalog_id": "c", "product_retailer_id": "p"}},
        },
    ),
    (
        ProductList("h", "b", "c", [ProductSection([ProductItem("p")], "s")]),
        {
            "type": "interactive",
            "interactive": {
                "type": "product_list",
                "header": {"type": "text", "text": "h"},
                "body": {"text": "b"},
                "action": {
                    "catalog_id": "c",
                    "sections": [{"product_items": [{"product_retailer_id": "p"}], "title": "s"}],
                },
            },
        },
    ),
    (
        CatalogMessage("b"),
        {
            "type": "interactive",
            "interactive": {"type": "catalog_message", "body": {"text": "b"}, "action": {"name": "catalog_message"}},
        },
    ),
    (
        CatalogMessage("b", "p"),
        {
            "type": "interactive",
            "interactive": {
                "type": "catalog_message",
                "body": {"text": "b"},
                "action": {"name": "catalog_message", "parameters": {"thumbnail_product_retailer_id": "p"}},
            },
        },
    ),
    (TemplateMessage("t", "fr"), {"type": "template", "template": {"name": "t", "language": {"code": "fr"}}}),
    (
        TemplateMessage(
            "t",
            "en_US",
            [
                TemplateHeader([MediaParameter(Image(link=LINK))]),
                TemplateBody(
                    [
                        TextParameter(SECRET, "who"),
                        CurrencyParameter("$10", "USD", 10_000, "sum"),
                        DateTimeParameter("today", year=2026, calendar="GREGORIAN", name="day"),
                    ]
                ),
                TemplateOffer([OfferParameter(1_700_000_000_000)]),
                TemplateButton("quick_reply", 0, [PayloadParameter("p")]),
                TemplateButton("copy_code", 1, [CouponCodeParameter("25OFF")]),
                TemplateButton("url", 2, ["path"]),
                TemplateButton("flow", 3, [ActionParameter({"flow_token": "f"})]),
                TemplateButton("CATALOG", 4),
            ],
        ),
        {
            "type": "template",
            "template": {
                "name": "t",
                "language": {"code": "en_US"},
                "components": [
                    {"type": "header", "parameters": [{"type": "image", "image": {"link": LINK}}]},
                    {
                        "type": "body",
                        "parameters": [
                            {"type": "text", "parameter_name": "who", "text": SECRET},
                            {
                                "type": "currency",
                                "parameter_name": "sum",
                                "currency": {"fallback_value": "$10", "code": "USD", "amount_1000": 10_000},
                            },
                            {
                                "type": "date_time",
                                "parameter_name": "day",
                                "date_time": {"fallback_value": "today", "year": 2026, "calendar": "GREGORIAN"},
                            },
                        ],
                    },
                    {
                        "type": "limited_time_offer",
                        "parameters": [
                            {
                                "type": "limited_time_offer",
                                "limited_time_offer": {"expiration_time_ms": 1_700_000_000_000},
                            }
                        ],
                    },
                    {
                        "type": "button",
                        "sub_type": "quick_reply",
                        "index": "0",
                        "parameters": [{"type": "payload", "payload": "p"}],
                    },
                    {
                        "type": "button",
                        "sub_type": "copy_code",
                        "index": "1",
                        "parameters": [{"type": "coupon_code", "coupon_code": "25OFF"}],
                    },
                    {
                        "type": "button",
                        "sub_type": "url",
                        "index": "2",
                        "parameters": [{"type": "text", "text": "path"}],
                    },
                    {
                        "type": "button",
                        "sub_type": "flow",
                        "index": "3",
                        "parameters": [{"type": "action", "action": {"flow_token": "f"}}],
                    },
                    {"type": "button", "sub_type": "CATALOG", "index": "4"},
                ],
            },
        },
    ),
    (
        TemplateMessage(
            "t",
            "fr",
            [
                TemplateHeader([LocationParameter(Location(1, 2))]),
                TemplateBody("a"),
                TemplateCarousel(
                    [
                        TemplateCard(0, [TemplateHeader([ProductParameter("p", "c")]), TemplateBody(["x"])]),
                        TemplateCard(1, [TemplateHeader([MediaParameter(Video(id="v"))])]),
                    ]
                ),
            ],
        ),
        {
            "type": "template",
            "template": {
                "name": "t",
                "language": {"code": "fr"},
                "components": [
                    {
                        "type": "header",
                        "parameters": [{"type": "location", "location": {"latitude": 1, "longitude": 2}}],
                    },
                    {"type": "body", "parameters": [{"type": "text", "text": "a"}]},
                    {
                        "type": "carousel",
                        "cards": [
                            {
                                "card_index": 0,
                                "components": [
                                    {
                                        "type": "header",
                                        "parameters": [
                                            {
                                                "type": "product",
                                                "product": {"product_retailer_id": "p", "catalog_id": "c"},
                                            }
                                        ],
                                    },
                                    {"type": "body", "parameters": [{"type": "text", "text": "x"}]},
                                ],
                            },
                            {
                                "card_index": 1,
                                "components": [
                                    {"type": "header", "parameters": [{"type": "video", "video": {"id": "v"}}]}
                                ],
                            },
                        ],
                    },
                ],
            },
        },
    ),
]


@pytest.mark.parametrize(("message", "payload"), MESSAGES, ids=lambda each: type(each).__name__)
def test_each_message_is_exactly_the_apis_json_and_back(message: Message, payload: Any) -> None:
    assert message.payload() == payload
    request = MessageRequest(TO, message, reply_to="wamid.0", opaque_data="o", identity_key_hash="h")
    whole = json.loads(json.dumps(request.payload()))
    assert whole == {
        "messaging_product": "whatsapp",
        "recipient_type": "individual",
        "to": TO,
        "context": {"message_id": "wamid.0"},
        **payload,
        "biz_opaque_callback_data": "o",
        "recipient_identity_key_hash": "h",
    }
    assert MessageRequest.from_payload(whole) == request
    for shown in (repr(message), repr(request), str(request)):
        assert SECRET not in shown
        assert TO not in shown


def test_every_public_type_of_message_is_tried() -> None:
    kinds = {getattr(messages, name) for name in messages.__all__}
    tried = {type(message) for message, _ in MESSAGES}
    bases = {Message, messages.Interactive}
    assert {kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Message)} - bases == tried


# --- recipients -------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [TO, "+33 6 12 34 56 78", "+33 (6) 12-34.56.78", "+33\u00a0612345678"])
def test_separators_are_taken_out_of_a_number(number: str) -> None:
    assert PhoneNumber(number).number == TO
    assert MessageRequest(number, Text("a")) == MessageRequest(TO, Text("a"))


@pytest.mark.parametrize(
    "number",
    [
        "0612345678",
        "33612345678",
        "6505551234",
        "0033612345678",
        "+0612345678",
        "",
        "+",
        "+12",
        "+1234567890123456",
        "+33612345678x",
        "++33612345678",
        "+33/612345678",
        "+٣٣٦١٢٣٤٥٦٧٨",
        "US.13491208655302741918",
        None,
        33612345678,
    ],
)
def test_a_number_without_plus_is_refused_and_not_shown(number: Any) -> None:
    with pytest.raises(InvalidMessageError, match=r"\+ and the 7 to 15 digits") as caught:
        PhoneNumber(number)
    assert not number or str(number).strip("+") not in str(caught.value) or len(str(number)) < 4
    assert isinstance(caught.value, ConfigurationError)
    assert isinstance(caught.value, WhatsAppError)


def test_other_recipients_are_opaque() -> None:
    assert PhoneNumber.from_wa_id(TO[1:]) == PhoneNumber(TO)
    for recipient, fields in (
        (PhoneNumber(TO), {"recipient_type": "individual", "to": TO}),
        (UserId("US.1349"), {"recipient_type": "individual", "recipient": "US.1349"}),
        (GroupId("g1"), {"recipient_type": "group", "to": "g1"}),
    ):
        request = MessageRequest(recipient, Text("a"))
        assert request.payload().items() >= fields.items()
        assert MessageRequest.from_payload(request.payload()) == request
        assert recipient.key not in repr(recipient)
    assert [UserId("u").key, GroupId("g").key, PhoneNumber(TO).key] == ["u", "g", TO]
    with pytest.raises(InvalidMessageError, match=r"UserId\.user_id"):
        UserId("a b")


# --- what is refused --------------------------------------------------------------------------------

# What the types forbid, for programs that are not checked.
FIVE: Any = 5
HALF: Any = 1.5
WORD: Any = "text"
PICTURE: Any = Image(id="1")
SOUND: Any = Audio(id="1")
ROWS = [Row(str(number), "t") for number in range(6)]
OTHERS = [Row(f"x{number}", "t") for number in range(6)]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Text(""), "Text.body must have 1 to 4096 characters, not 0"),
        (lambda: Text("x" * 4097), "Text.body must have 1 to 4096 characters, not 4097"),
        (lambda: Text("  "), "Text.body must not be blank"),
        (lambda: Text(FIVE), "Text.body must be a text"),
        (lambda: Text("a", FIVE), "Text.preview_url must be True or False"),
        (Image, "Image must have either id or link"),
        (lambda: Image(id="1", link=LINK), "Image must have either id or link"),
        (lambda: Image(link="ftp://x"), "Image.link must be a link that begins with https"),
        (lambda: Image(id="1", caption="x" * 1025), "Image.caption must have 1 to 1024"),
        (lambda: Location(91, 0), "Location.latitude must be a number from -90 to 90"),
        (lambda: Location(0, float("nan")), "Location.longitude must be a number"),
        (lambda: Location(True, 0), "Location.latitude must be a number"),
        (lambda: Reaction("", "x"), "Reaction.message_id must have 1"),
        (lambda: ContactName("a"), "ContactName must have a part besides formatted_name"),
        (lambda: Contact(WORD), "Contact.name must be a ContactName"),
        (lambda: Contact(ContactName("a", "b"), birthday="31.12.2001"), "Contact.birthday must be a date"),
        (lambda: Contacts([]), "Contacts.contacts must hold 1 to 257, not 0"),
        (lambda: Contacts(5), "Contacts.contacts must hold only Contact"),
        (lambda: Contacts("ab"), "Contacts.contacts must hold only Contact"),
        (lambda: Reply("1", "x" * 21), "Reply.title must have 1 to 20"),
        (lambda: ReplyButtons("b", []), "ReplyButtons.buttons must hold 1 to 3, not 0"),
        (lambda: ReplyButtons("b", [Reply("1", "a"), Reply("1", "b")]), "ReplyButtons.buttons: each id"),
        (lambda: ReplyButtons("b", [Reply("1", "a"), Reply("2", "a")]), "ReplyButtons.buttons: each title"),
        (lambda: ReplyButtons("b", [Reply("1", "a")], header=FIVE), "ReplyButtons.header must be a text, or an Image"),
        (lambda: ReplyButtons("b", [Reply("1", "a")], header="x" * 61), "ReplyButtons.header must have 1 to 60"),
        (lambda: ListMessage("b", "o", [Section(ROWS)], header=PICTURE), "ListMessage.header must be a text"),
        (lambda: ListMessage("b", "o", [Section(ROWS, "a"), Section(OTHERS, "b")]), "at most 10 rows in all, not 12"),
        (lambda: ListMessage("b", "o", [Section(ROWS[:1], "a"), Section(ROWS[:1], "b")]), "each id of a row"),
        (lambda: ListMessage("b", "o", [Section(ROWS[:1]), Section(OTHERS[:1], "b")]), "each needs a title"),
        (lambda: CallToAction("b", "d", "x"), "CallToAction.url must be a link"),
        (lambda: FlowMessage(body="b", flow_cta="c"), "FlowMessage must have either flow_id or flow_name"),
        (lambda: FlowMessage(body="b", flow_cta="c", flow_id="1", mode="x"), "FlowMessage.mode must be one of draft"),
        (
            lambda: FlowMessage(body="b", flow_cta="c", flow_id="1", flow_action_payload={"a": object()}),
            "FlowMessage.flow_action_payload must be a mapping",
        ),
        (
            lambda: ProductList("h", "b", "c", [ProductSection([ProductItem("p")] * 16, "s")] * 2),
            "at most 30 products in all, not 32",
        ),
        (lambda: CurrencyParameter("a", "euro", 1), "CurrencyParameter.code must have"),
        (lambda: CurrencyParameter("a", "eur", 1), "CurrencyParameter.code must be a currency of three capitals"),
        (lambda: CurrencyParameter("a", "EUR", HALF), "CurrencyParameter.amount_1000 must be a whole number"),
        (lambda: DateTimeParameter("a", month=13), "DateTimeParameter.month must be a whole number from 1 to 12"),
        (lambda: MediaParameter(SOUND), "MediaParameter.media must be a Image or Video or Document"),
        (lambda: TemplateHeader(["a", "b"]), "TemplateHeader.parameters must hold 1 to 1, not 2"),
        (lambda: TemplateBody([PayloadParameter("a")]), "TemplateBody.parameters must hold only TextParameter or"),
        (lambda: TemplateBody([TextParameter("a", "n"), "b"]), "either each parameter has a name, or none has"),
        (lambda: TemplateBody([TextParameter("a", "n")] * 2), "TemplateBody.parameters: each name"),
        (lambda: TemplateButton("push", 0), "TemplateButton.sub_type must be one of quick_reply"),
        (lambda: TemplateButton("url", 10), "TemplateButton.index must have"),
        (lambda: TemplateButton("url", "x"), "TemplateButton.index must be a number from 0 to 9"),
        (lambda: TemplateCarousel([TemplateCard(0, [TemplateBody("a")])] * 2), "each card_index"),
        (lambda: TemplateMessage("t", "fr", [TemplateBody("a"), TemplateBody("b")]), "each component but buttons"),
        (lambda: TemplateMessage("t", "fr", [TemplateButton("url", 0)] * 2), "each index of a button"),
        (lambda: TemplateMessage("", "fr"), "TemplateMessage.name must have 1"),
        (lambda: MessageRequest(TO, WORD), "MessageRequest.message must be a Message"),
        (lambda: MessageRequest(TO, Text("a"), opaque_data="x" * 513), "MessageRequest.opaque_data must have 1 to 512"),
        (lambda: MarketingRequest(MessageRequest(TO, Text("a"))), "MarketingRequest.request must hold a Template"),
        (lambda: MarkAsRead("a b"), "MarkAsRead.message_id must be the id of a message"),
    ],
)
def test_what_the_api_would_refuse_is_refused_by_field(make: Any, told: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        make()
    assert told in str(caught.value)


def sent(**content: Any) -> dict[str, Any]:
    return {"messaging_product": "whatsapp", "to": TO, **content}


BUTTONS = {"type": "button", "body": {"text": "b"}, "action": {"buttons": [{"reply": {"id": "1", "title": "t"}}]}}


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (None, "MessageRequest.type must be one of"),
        (sent(type="fax"), "MessageRequest.type must be one of"),
        ({"type": "text", "to": TO}, "messaging_product"),
        (sent(type="text"), "Text must be an object"),
        (sent(type="text", text={}), "Text.body is missing"),
        (sent(type="text", text={"body": "a", "colour": 1}), "Text has no field 'colour'"),
        (sent(type="text", text={"body": "a", f"{TO} {SECRET}": 1}), "Text has no field of another name"),
        (sent(type="text", text={"body": "a"}, recipient_type="crowd"), "recipient_type must be"),
        (sent(type="text", text={"body": "a"}, recipient="u"), "either to or recipient"),
        ({"messaging_product": "whatsapp", "text": {"body": "a"}}, "UserId.user_id must be a text"),
        (sent(type="contacts", contacts={}), "Contacts.contacts must hold only"),
        (sent(type="location", location={"latitude": "x", "longitude": 0}), "Location.latitude must be"),
        (sent(type="location", location=5), "Location must be an object"),
        (sent(type="interactive", interactive={"type": "poll"}), "interactive.type must be one of"),
        (sent(type="interactive", interactive=[]), "interactive.type must be one of"),
        (sent(type="interactive", interactive={"type": "button"}), "ReplyButtons.action must be an object"),
        (sent(type="interactive", interactive={**BUTTONS, "body": None}), "ReplyButtons lacks a part"),
        (sent(type="interactive", interactive={**BUTTONS, "action": {"buttons": 5}}), "buttons must hold only Reply"),
        (sent(type="interactive", interactive={**BUTTONS, "header": {"type": "gif"}}), "must be a text, or an image"),
        (sent(type="template", template={"name": "t"}), "TemplateMessage.language must be an object"),
        (sent(type="template", template={"name": "t", "language": {"code": "fr"}, "components": [5]}), "a component"),
        (
            sent(
                type="template",
                template={
                    "name": "t",
                    "language": {"code": "fr"},
                    "components": [{"type": "body", "parameters": [{"type": "emoji"}]}],
                },
            ),
            "the type of a parameter must be one of",
        ),
        (
            sent(
                type="template",
                template={
                    "name": "t",
                    "language": {"code": "fr"},
                    "components": [
                        {"type": "body", "parameters": [{"type": "payload", "payload": "p", "parameter_name": "n"}]}
                    ],
                },
            ),
            "a parameter of type payload cannot have a name",
        ),
    ],
)
def test_json_that_is_no_message_is_refused(payload: Any, told: str) -> None:
    with pytest.raises(InvalidMessageError) as caught:
        MessageRequest.from_payload(payload)
    assert told in str(caught.value)
    assert SECRET not in str(caught.value)
    assert TO not in str(caught.value)


def test_carousels_do_not_nest() -> None:
    nested: dict[str, Any] = {"type": "carousel", "cards": []}
    for _ in range(300):
        nested = {"type": "carousel", "cards": [{"card_index": 0, "components": [nested]}]}
    template = {"name": "t", "language": {"code": "fr"}, "components": [nested]}
    with pytest.raises(InvalidMessageError, match="one of header, body, button"):
        MessageRequest.from_payload(sent(type="template", template=template))


def test_a_component_in_the_apis_own_form_is_passed_on() -> None:
    raw = {"type": "order_status", "parameters": [{"type": "order_status"}]}
    message = TemplateMessage("t", "fr", [RawComponent(raw), RawComponent(raw), TemplateBody("a")])
    assert message.payload()["template"]["components"][:2] == [raw, raw]
    with pytest.raises(InvalidMessageError, match=r"RawComponent\.value"):
        RawComponent({"a": object()})


def test_degrees_may_be_texts() -> None:
    request = MessageRequest.from_payload(sent(type="location", location={"latitude": "48.5", "longitude": "2"}))
    assert request.message == Location(48.5, 2.0)


def test_a_mark_and_its_typing_indicator() -> None:
    for typing in (False, True):
        mark = MarkAsRead("wamid.1", typing)
        assert MarkAsRead.from_payload(mark.payload()) == mark
    assert "typing_indicator" not in MarkAsRead("wamid.1").payload()
    with pytest.raises(InvalidMessageError, match="status"):
        MarkAsRead.from_payload({"messaging_product": "whatsapp", "message_id": "wamid.1"})
    with pytest.raises(InvalidMessageError, match="messaging_product"):
        MarketingRequest.from_payload(5)


def test_whatever_json_is_read_it_is_a_message_or_refused() -> None:
    draw = random.Random(3)
    payloads = [MessageRequest(TO, message).payload() for message, _ in MESSAGES]
    for _ in range(size(30_000, 3_000)):
        payload = copy.deepcopy(draw.choice(payloads))
        for _ in range(draw.randrange(1, 4)):
            damage(draw, payload)
        try:
            request = MessageRequest.from_payload(payload)
        except InvalidMessageError:
            continue
        assert MessageRequest.from_payload(request.payload()) == request


def damage(draw: random.Random, value: Any) -> None:
    """Change one value somewhere within."""
    while value:
        key = draw.choice(list(value) if isinstance(value, dict) else range(len(value)))
        if isinstance(value[key], (dict, list)) and draw.random() < 0.8:
            value = value[key]
            continue
        value[key] = draw.choice([None, 5, "", "x", "é" * 5000, [], {}, [1], {"a": 1}, True, 1.5, -1])
        return


# --- samples ----------------------------------------------------------------------------------------


def filled(value: Any) -> Any:
    """A sample with its placeholders filled in, and in the one form of several that the types write.

    A number gets its `+`; types are in small letters; the index of a button is a text; what is a default is written.
    """
    if isinstance(value, list):
        return [filled(each) for each in value]
    if isinstance(value, dict):
        return {key: _filled(key, each) for key, each in value.items()}
    return value


def _filled(key: str, value: Any) -> Any:
    if key == "to":
        return TO if "{" in value or "<" in value else f"+{value.lstrip('+')}"
    if key == "link" and not re.match("https?://", value):
        return LINK
    if key == "type" and isinstance(value, str):
        return "text" if value.startswith("<") else value.lower()
    if key == "index":
        return str(value)
    if key == "id" and isinstance(value, str):
        return value.replace(" ", "")
    return filled(value)


def whole(content: dict[str, Any]) -> dict[str, Any]:
    return {"recipient_type": "individual", "type": "text", **filled(content)}


SENT = samples("request.send_message")


@needs_corpus
def test_there_are_samples_of_requests() -> None:
    assert len(SENT) >= 18


@pytest.mark.parametrize("sample", SENT, ids=lambda sample: sample.file)
def test_each_sample_of_a_request_can_be_made(sample: Sample) -> None:
    content = whole(sample.content)
    assert MessageRequest.from_payload(content).payload() == content


@pytest.mark.parametrize("sample", samples("request.mark_read"), ids=lambda sample: sample.file)
def test_each_sample_of_a_mark_can_be_made(sample: Sample) -> None:
    assert MarkAsRead.from_payload(sample.content).payload() == sample.content


@pytest.mark.parametrize("sample", samples("request.marketing_message"), ids=lambda sample: sample.file)
def test_each_sample_of_a_marketing_message_can_be_made(sample: Sample) -> None:
    content = whole(sample.content)
    assert MarketingRequest.from_payload(content).payload() == content


@pytest.mark.parametrize("sample", samples("request.create_template"), ids=lambda sample: sample.file)
def test_each_sample_of_a_template_to_file_can_be_made(sample: Sample) -> None:
    assert TemplateDefinition.from_payload(sample.content).payload() == sample.content


def test_the_loader_takes_any_directory_of_the_same_shape(tmp_path: Path) -> None:
    rows = [{"file": "a.json", "kind": "request.send_message"}, {"file": "b.json", "kind": "requests"}]
    (tmp_path / "index.json").write_text(json.dumps({"samples": rows}))
    (tmp_path / "a.json").write_text(json.dumps({"type": "text"}))
    (found,) = samples("request", tmp_path)
    assert (found.content, found.http_status, found.error_codes) == ({"type": "text"}, None, ())
    assert samples("request", tmp_path / "absent") == []


def test_a_flow_that_is_given_no_data_is_asked_without_any() -> None:
    message = FlowMessage(body="b", flow_cta="c", flow_id="1")
    parameters = message.payload()["interactive"]["action"]["parameters"]
    assert parameters["flow_id"] == "1"
    assert "flow_action_payload" not in parameters
    payload = MessageRequest("+33612345678", message).payload()
    assert MessageRequest.from_payload(payload).message == message
