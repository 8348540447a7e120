"""Every known Graph error code: what it is, what it applies to, what helps. Data only; the rules are in `errors.py`.

Source: Meta's error code page as of September 2026 and public reports of what the API answers; the words are ours.
`docs/whatsapp/errors.md` shows the same table.
"""

from __future__ import annotations

from enum import Enum
from typing import Literal, TypeAlias

from attrs import frozen

Ambiguity: TypeAlias = Literal["none", "low", "medium", "high"]
"""How likely it is that the request was carried out although it ended in this error."""


class ErrorClass(Enum):
    """What kind of trouble an error code stands for, and so what helps."""

    TRANSIENT = "the platform is in trouble"
    THROTTLE = "a limit is reached"
    AUTH = "the token or its permissions are refused"
    REQUEST = "the request is wrong"
    RECIPIENT = "this recipient cannot be reached"
    TEMPLATE = "this template cannot be used"
    POLICY = "the account is restricted"
    SENDER = "the sending number or account is not ready"
    AMBIGUOUS = "no verdict came back"


class RetryAdvice(Enum):
    """What must happen before the same request can succeed."""

    NEVER = "nothing helps: do not repeat it"
    BACKOFF = "repeat it a few times, waiting longer each time"
    MINUTES = "repeat it after some minutes"
    WAIT = "repeat it when the limit has room again"
    WAIT_GROWING = "repeat it after 1 s, then 4 s, 16 s, 64 s"
    WAIT_HOURS = "wait for hours, then look at the quality of the number"
    LIFTED = "wait until the restriction is lifted"
    FIX = "repeat it after the cause is repaired"
    FIX_OR_ONCE = "repair the media, or repeat it once"
    REVIEW = "repeat it after the account was reviewed"
    USE_TEMPLATE = "send an approved template instead"
    CONFIRM = "repeat it after the recipient's identity is confirmed"
    RECONCILE = "wait for a webhook that tells what became of it"


@frozen
class ErrorCode:
    """One error code, or one code with one subcode."""

    code: int
    error_class: ErrorClass
    scope: str
    """What the trouble applies to: "phone_number", "pair", "template", ..."""
    advice: RetryAdvice
    meaning: str
    wait: float | None = None
    """Seconds, where a wait is stated; the least of it where the advice is to wait for longer."""
    ambiguity: Ambiguity = "none"
    subcode: int | None = None


_A, _T, _H, _R = ErrorClass.AUTH, ErrorClass.TRANSIENT, ErrorClass.THROTTLE, ErrorClass.REQUEST
_P, _N, _S, _L = ErrorClass.RECIPIENT, ErrorClass.TEMPLATE, ErrorClass.SENDER, ErrorClass.POLICY
_FIX, _NEVER, _WAIT, _BACKOFF = RetryAdvice.FIX, RetryAdvice.NEVER, RetryAdvice.WAIT, RetryAdvice.BACKOFF
_DAY, _HOUR = 86_400.0, 3_600.0

_ROWS = (
    # Graph, common to all products
    ErrorCode(0, _A, "token", _FIX, "the token is expired or withdrawn, or the app has lost its access"),
    ErrorCode(
        1, _T, "request or platform", _BACKOFF, "trouble of the platform, or a malformed request", None, "medium"
    ),
    ErrorCode(2, _T, "platform", _BACKOFF, "the platform is down or overloaded", None, "low"),
    ErrorCode(3, _A, "token", _FIX, "the app lacks a capability or permission"),
    ErrorCode(4, _H, "app", _WAIT, "the app made all the calls it may make in an hour"),
    ErrorCode(10, _A, "token", _FIX, "a permission is missing or was withdrawn"),
    ErrorCode(17, _H, "token", _WAIT, "the user of the token made too many calls"),
    ErrorCode(32, _H, "page", _WAIT, "too many calls for a page; not seen on WhatsApp"),
    ErrorCode(33, _S, "phone_number", _FIX, "the sending number was deleted"),
    ErrorCode(100, _R, "request", _NEVER, "a parameter is unknown, misspelled, too long or not valid"),
    ErrorCode(102, _A, "token", _FIX, "the session of the token has ended"),
    ErrorCode(104, _A, "token", _FIX, "the request carried no token"),
    ErrorCode(190, _A, "token", _FIX, "the token is expired, withdrawn or unreadable"),
    ErrorCode(200, _A, "token", _FIX, "a permission is missing; so are all codes up to 299"),
    ErrorCode(341, _H, "app", _WAIT, "a limit of the app is reached"),
    ErrorCode(368, _L, "waba", RetryAdvice.REVIEW, "the business account is blocked for breaking a policy"),
    ErrorCode(506, _R, "request", _NEVER, "the same post twice; says nothing about messages"),
    ErrorCode(613, _H, "endpoint", _WAIT, "too many calls of this endpoint"),
    ErrorCode(803, _R, "request", _NEVER, "an id in the request does not exist"),
    ErrorCode(2500, _R, "request", _NEVER, "the path or its version does not exist"),
    ErrorCode(80007, _H, "app+waba", _WAIT, "too many management calls for the business account"),
    # messages
    ErrorCode(130403, _P, "recipient", _NEVER, "the business has blocked this user"),
    ErrorCode(130429, _H, "phone_number", _WAIT, "the number sends and receives faster than it may"),
    ErrorCode(130472, _P, "recipient", _NEVER, "an experiment of the platform keeps marketing from this user"),
    ErrorCode(130497, _L, "waba+country", RetryAdvice.REVIEW, "the account may not write to this country"),
    ErrorCode(131000, _T, "platform", _BACKOFF, "the platform failed and does not say why", None, "medium"),
    ErrorCode(131005, _A, "token", _FIX, "a permission is missing or was withdrawn"),
    ErrorCode(131008, _R, "request", _NEVER, "a required parameter is missing"),
    ErrorCode(131009, _R, "request", _NEVER, "the value of a parameter is not valid"),
    ErrorCode(131014, _R, "request", _NEVER, "our own media link did not answer; comes by webhook"),
    ErrorCode(131016, _T, "platform", _BACKOFF, "a service of the platform is down", None, "low"),
    ErrorCode(131021, _R, "request", _NEVER, "sender and recipient are the same number"),
    ErrorCode(131026, _P, "recipient", _NEVER, "no such user, or one whose app cannot take the message"),
    ErrorCode(131030, _P, "recipient", _NEVER, "a test number may write to listed recipients only"),
    ErrorCode(131031, _L, "waba", RetryAdvice.REVIEW, "the account is locked"),
    ErrorCode(131037, _S, "phone_number", _FIX, "the display name of the number is not approved"),
    ErrorCode(131042, _S, "waba", _FIX, "the account cannot pay; mostly by webhook, after the send was accepted"),
    ErrorCode(131044, _S, "waba", _FIX, "the account cannot pay for calls"),
    ErrorCode(131045, _S, "phone_number", _FIX, "the registration of the number is broken"),
    ErrorCode(131047, _P, "recipient", RetryAdvice.USE_TEMPLATE, "the user has not written for 24 hours"),
    # The wait of these two is the least of it: to try again within seconds makes it worse.
    ErrorCode(
        131048, _H, "phone_number", RetryAdvice.WAIT_HOURS, "too many users blocked or flagged the number", _HOUR
    ),
    ErrorCode(131049, _P, "recipient", _WAIT, "this user gets no more marketing for now", _DAY),
    ErrorCode(131050, _P, "recipient", _NEVER, "the user wants no marketing of this business"),
    ErrorCode(131051, _R, "request", _NEVER, "the type of the message is not supported"),
    ErrorCode(131052, _R, "request", _NEVER, "media that a user sent cannot be fetched"),
    ErrorCode(131053, _R, "request", RetryAdvice.FIX_OR_ONCE, "the media cannot be fetched or is not allowed"),
    ErrorCode(131055, _R, "request", _NEVER, "this endpoint takes marketing templates only"),
    ErrorCode(131056, _H, "pair", RetryAdvice.WAIT_GROWING, "too many messages to this one recipient"),
    ErrorCode(131057, _T, "phone_number", _BACKOFF, "the number is being moved or upgraded, for about a minute"),
    ErrorCode(131062, _P, "recipient", _NEVER, "this message needs a phone number, not a user id"),
    ErrorCode(131063, _S, "waba", _FIX, "the account has switched marketing off for this endpoint"),
    ErrorCode(131064, _H, "waba", RetryAdvice.LIFTED, "limited for templates filed in the wrong category", _HOUR),
    ErrorCode(134011, _S, "waba", _FIX, "the terms of WhatsApp payments are not accepted"),
    ErrorCode(134100, _R, "request", _NEVER, "this endpoint takes marketing templates only"),
    ErrorCode(135000, _R, "request", _NEVER, "something about the parameters is wrong; it does not say what"),
    ErrorCode(137000, _P, "recipient", RetryAdvice.CONFIRM, "the user's identity has changed since the hash was taken"),
    ErrorCode(1752041, _R, "request", _NEVER, "this was asked for already"),
    # templates and flows
    ErrorCode(132000, _N, "template", _FIX, "more or fewer parameters than the template has"),
    ErrorCode(132001, _N, "template", _FIX, "no approved template of this name in this language"),
    ErrorCode(132005, _N, "template", _FIX, "the text is too long with its parameters filled in"),
    ErrorCode(132007, _N, "template", _FIX, "the content breaks a policy"),
    ErrorCode(132008, _N, "template", _FIX, "the value of a parameter is not valid"),
    ErrorCode(132012, _N, "template", _FIX, "the form of a parameter does not fit"),
    ErrorCode(132015, _N, "template", _FIX, "the template is paused for its low quality"),
    ErrorCode(132016, _N, "template", _NEVER, "the template was paused too often and is disabled"),
    ErrorCode(132018, _N, "template", _FIX, "a parameter does not pass the template's checks"),
    ErrorCode(132068, _N, "flow", _FIX, "the flow is blocked"),
    ErrorCode(132069, _H, "flow", _WAIT, "the flow is limited to a few messages in an hour", _HOUR),
    ErrorCode(134101, _N, "template", _WAIT, "a new template is not yet known everywhere", 600.0),
    ErrorCode(134102, _N, "template", _FIX, "the template cannot be used for marketing"),
    # registration of numbers
    ErrorCode(133000, _R, "phone_number", _NEVER, "an earlier deregistration has failed"),
    ErrorCode(133004, _T, "platform", _BACKOFF, "the registration server is down"),
    ErrorCode(133005, _R, "phone_number", _NEVER, "the PIN is wrong"),
    ErrorCode(133006, _R, "phone_number", _NEVER, "the number must be verified first"),
    ErrorCode(133008, _H, "phone_number", _WAIT, "too many wrong PINs"),
    ErrorCode(133009, _H, "phone_number", _WAIT, "PINs tried too fast"),
    ErrorCode(133010, _S, "phone_number", _FIX, "the number is not registered"),
    ErrorCode(133015, _H, "phone_number", _WAIT, "the number was deleted a moment ago", 300.0),
    ErrorCode(133016, _H, "phone_number", _WAIT, "registered and deregistered too often"),
    ErrorCode(136024, _R, "phone_number", _NEVER, "no verification code could be asked for"),
    ErrorCode(136025, _R, "phone_number", _NEVER, "the verification code is wrong"),
    ErrorCode(2494100, _T, "phone_number", RetryAdvice.MINUTES, "the number is being moved"),
    # groups
    ErrorCode(131020, _R, "group", _NEVER, "nobody else is in the group"),
    ErrorCode(131041, _R, "group", _NEVER, "no such group"),
    ErrorCode(131059, _R, "group", _NEVER, "the cursor of a listing is not valid"),
    ErrorCode(131201, _R, "group", _NEVER, "done for a part of the participants"),
    ErrorCode(131202, _R, "group", _NEVER, "a participant is named twice"),
    ErrorCode(131204, _R, "group", _NEVER, "too many participants"),
    ErrorCode(131207, _L, "group", RetryAdvice.REVIEW, "the group is suspended"),
    ErrorCode(131208, _H, "group", _WAIT, "too many messages to the group"),
    ErrorCode(131209, _R, "group", _NEVER, "the picture has the wrong proportions"),
    ErrorCode(131210, _R, "group", _NEVER, "the picture is too small"),
    ErrorCode(131211, _H, "group", _WAIT, "too many groups were made"),
    ErrorCode(131212, _R, "group", _NEVER, "the participant is not in the group"),
    ErrorCode(131213, _R, "group", _NEVER, "no such request to join"),
    ErrorCode(131214, _L, "group", RetryAdvice.REVIEW, "no groups can be made for now"),
    ErrorCode(131215, _A, "group", _FIX, "the number may not use groups"),
    # calls, flows as such, block lists, user names, sign-up
    ErrorCode(138000, _S, "other-product", _FIX, "calls are not switched on"),
    ErrorCode(138001, _P, "other-product", _NEVER, "this user cannot be called"),
    ErrorCode(138002, _H, "other-product", _WAIT, "too many calls at once"),
    ErrorCode(138003, _R, "other-product", _NEVER, "this call exists already"),
    ErrorCode(138004, _T, "other-product", _BACKOFF, "the call could not be connected"),
    ErrorCode(138005, _H, "other-product", _WAIT, "too many calls in a period"),
    ErrorCode(138006, _P, "other-product", _NEVER, "the user has not allowed calls"),
    ErrorCode(138007, _T, "other-product", _BACKOFF, "connecting the call took too long"),
    ErrorCode(138009, _H, "other-product", _WAIT, "asked for permission to call too often"),
    ErrorCode(138012, _H, "other-product", _WAIT, "all calls of a day are used"),
    ErrorCode(138013, _H, "other-product", _WAIT, "read the permission to call too often"),
    ErrorCode(138018, _S, "other-product", _FIX, "calls cannot be switched on"),
    ErrorCode(139000, _L, "other-product", RetryAdvice.REVIEW, "the flow is blocked by an integrity check"),
    ErrorCode(139001, _R, "other-product", _NEVER, "the flow could not be changed"),
    ErrorCode(139002, _R, "other-product", _NEVER, "the flow could not be published"),
    ErrorCode(139003, _R, "other-product", _NEVER, "the flow could not be withdrawn"),
    ErrorCode(139004, _R, "other-product", _NEVER, "the flow could not be deleted"),
    ErrorCode(139100, _R, "other-product", _NEVER, "some users could not be blocked"),
    ErrorCode(139101, _R, "other-product", _NEVER, "the block list is full"),
    ErrorCode(139102, _T, "other-product", _BACKOFF, "the block list is being changed by somebody else"),
    ErrorCode(139103, _T, "other-product", _BACKOFF, "the block list has trouble of its own"),
    ErrorCode(147001, _R, "other-product", _NEVER, "the user name is taken"),
    ErrorCode(147002, _R, "other-product", _NEVER, "the business may not have a user name"),
    ErrorCode(147003, _R, "other-product", _NEVER, "no Facebook account is linked"),
    ErrorCode(147004, _R, "other-product", _NEVER, "no Instagram account is linked"),
    ErrorCode(147005, _R, "other-product", _NEVER, "the user name must be moved first"),
    ErrorCode(2494164, _R, "other-product", _NEVER, "no such sign-up"),
    ErrorCode(2494165, _R, "other-product", _NEVER, "sign-up is not to be had here"),
    ErrorCode(2494166, _R, "other-product", _NEVER, "the sign-up has an unknown placeholder"),
    ErrorCode(2494167, _R, "other-product", _NEVER, "a placeholder of the sign-up has no value"),
    ErrorCode(2494168, _R, "other-product", _NEVER, "the terms of the sign-up are not accepted"),
    ErrorCode(2494176, _R, "other-product", _NEVER, "the terms of the sign-up were accepted before"),
    ErrorCode(2494177, _R, "other-product", _NEVER, "the address of the terms is not allowed"),
    ErrorCode(2494179, _R, "other-product", _NEVER, "the address of the website has the wrong scheme"),
    # management
    ErrorCode(200005, _R, "management", _NEVER, "the template has no statistics"),
    ErrorCode(200006, _R, "management", _NEVER, "the statistics cannot be switched off"),
    ErrorCode(200007, _R, "management", _NEVER, "the statistics are not switched on"),
    ErrorCode(2388012, _R, "management", _NEVER, "the number is in the account already"),
    ErrorCode(2388019, _R, "management", _NEVER, "the account has all the templates it may have"),
    ErrorCode(2388039, _R, "management", _NEVER, "the template cannot be changed in its present state"),
    ErrorCode(2388040, _R, "management", _NEVER, "a text of the template is too long"),
    ErrorCode(2388047, _R, "management", _NEVER, "the header of the template is not well-formed"),
    ErrorCode(2388072, _R, "management", _NEVER, "the body of the template is not well-formed"),
    ErrorCode(2388073, _R, "management", _NEVER, "the footer of the template is not well-formed"),
    ErrorCode(2388091, _R, "management", _NEVER, "the number may not get a code now"),
    ErrorCode(2388093, _R, "management", _NEVER, "the number may not get a code"),
    ErrorCode(2388103, _R, "management", _NEVER, "the number cannot be moved"),
    ErrorCode(2388293, _R, "management", _NEVER, "the template has too many parameters for its words"),
    ErrorCode(2388299, _R, "management", _NEVER, "the template begins or ends with a parameter"),
    ErrorCode(2593107, _R, "management", _NEVER, "the number was synchronised before"),
    ErrorCode(2593108, _R, "management", _NEVER, "the time to synchronise is over"),
)

_SUB_ROWS = (
    ErrorCode(4, _H, "app", _WAIT, "the app made all the calls it may make in an hour", subcode=2446079),
    ErrorCode(100, _R, "request", _NEVER, "no such object, or no permission for it", subcode=33),
    ErrorCode(100, _R, "request", _NEVER, "a template of this name and language exists", subcode=2388024),
    ErrorCode(190, _A, "token", _FIX, "the app is not installed any more: log in again", subcode=458),
    ErrorCode(190, _A, "token", _FIX, "the user must pass a check of Facebook", subcode=459),
    ErrorCode(190, _A, "token", _FIX, "the user's password was changed", subcode=460),
    ErrorCode(190, _A, "token", _FIX, "the token is expired", subcode=463),
    ErrorCode(190, _A, "token", _FIX, "the user is not confirmed", subcode=464),
    ErrorCode(190, _A, "token", _FIX, "the token is not valid", subcode=467),
    ErrorCode(190, _A, "token", _FIX, "the session is not valid", subcode=492),
    ErrorCode(200, _A, "token", _FIX, "a permission is missing", subcode=1349174),
    ErrorCode(130429, _H, "phone_number", _WAIT, "the number sends faster than it may", subcode=2494055),
    ErrorCode(131030, _P, "recipient", _NEVER, "a test number may write to listed recipients only", subcode=2655007),
    ErrorCode(132001, _N, "template", _FIX, "no such template", subcode=2494015),
)

ERROR_CODES: dict[int, ErrorCode] = {row.code: row for row in _ROWS}
"""All known codes."""

ERROR_SUBCODES: dict[tuple[int, int], ErrorCode] = {(row.code, row.subcode or 0): row for row in _SUB_ROWS}
"""Exact (code, subcode) pairs, asked before the code alone."""

PERMISSION_CODES = range(200, 300)
"""All of them are about permissions, and stand for code 200."""
