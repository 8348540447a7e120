"""Which class and scope each known Graph error code belongs to. Data only; the rules that read it are in `errors.py`.

Source: Meta's error code page as of September 2026 and public reports of what the API answers.
"""

from __future__ import annotations

from enum import Enum


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


_GROUPS: dict[tuple[ErrorClass, str], tuple[int, ...]] = {
    (ErrorClass.AUTH, "group"): (131215,),
    (ErrorClass.AUTH, "token"): (0, 3, 10, 102, 104, 190, 200, 131005),
    (ErrorClass.POLICY, "group"): (131207, 131214),
    (ErrorClass.POLICY, "other-product"): (139000,),
    (ErrorClass.POLICY, "waba"): (368, 131031),
    (ErrorClass.POLICY, "waba+country"): (130497,),
    (ErrorClass.RECIPIENT, "other-product"): (138001, 138006),
    (ErrorClass.RECIPIENT, "recipient"): (130403, 130472, 131026, 131030, 131047, 131049, 131050, 131062, 137000),
    (ErrorClass.REQUEST, "group"): (131020, 131041, 131059, 131201, 131202, 131204, 131209, 131210, 131212, 131213),
    (ErrorClass.REQUEST, "management"): (
        200005,
        200006,
        200007,
        2388012,
        2388019,
        2388039,
        2388040,
        2388047,
        2388072,
        2388073,
        2388091,
        2388093,
        2388103,
        2388293,
        2388299,
        2593107,
        2593108,
    ),
    (ErrorClass.REQUEST, "other-product"): (
        138003,
        139001,
        139002,
        139003,
        139004,
        139100,
        139101,
        147001,
        147002,
        147003,
        147004,
        147005,
        2494164,
        2494165,
        2494166,
        2494167,
        2494168,
        2494176,
        2494177,
        2494179,
    ),
    (ErrorClass.REQUEST, "phone_number"): (133000, 133005, 133006, 136024, 136025),
    (ErrorClass.REQUEST, "request"): (
        100,
        506,
        803,
        2500,
        131008,
        131009,
        131014,
        131021,
        131051,
        131052,
        131053,
        131055,
        134100,
        135000,
        1752041,
    ),
    (ErrorClass.SENDER, "other-product"): (138000, 138018),
    (ErrorClass.SENDER, "phone_number"): (33, 131037, 131045, 133010),
    (ErrorClass.SENDER, "waba"): (131042, 131044, 131063, 134011),
    (ErrorClass.TEMPLATE, "flow"): (132068,),
    (ErrorClass.TEMPLATE, "template"): (
        132000,
        132001,
        132005,
        132007,
        132008,
        132012,
        132015,
        132016,
        132018,
        134101,
        134102,
    ),
    (ErrorClass.THROTTLE, "app"): (4, 341),
    (ErrorClass.THROTTLE, "app+waba"): (80007,),
    (ErrorClass.THROTTLE, "endpoint"): (613,),
    (ErrorClass.THROTTLE, "flow"): (132069,),
    (ErrorClass.THROTTLE, "group"): (131208, 131211),
    (ErrorClass.THROTTLE, "other-product"): (138002, 138005, 138009, 138012, 138013),
    (ErrorClass.THROTTLE, "page"): (32,),
    (ErrorClass.THROTTLE, "pair"): (131056,),
    (ErrorClass.THROTTLE, "phone_number"): (130429, 131048, 133008, 133009, 133015, 133016),
    (ErrorClass.THROTTLE, "token"): (17,),
    (ErrorClass.THROTTLE, "waba"): (131064,),
    (ErrorClass.TRANSIENT, "other-product"): (138004, 138007, 139102, 139103),
    (ErrorClass.TRANSIENT, "phone_number"): (131057, 2494100),
    (ErrorClass.TRANSIENT, "platform"): (2, 131000, 131016, 133004),
    (ErrorClass.TRANSIENT, "request or platform"): (1,),
}

CODES: dict[int, tuple[ErrorClass, str]] = {code: row for row, codes in _GROUPS.items() for code in codes}
"""Error code -> its class and scope."""

SUBCODES: dict[tuple[int, int], tuple[ErrorClass, str]] = {
    (100, 33): (ErrorClass.REQUEST, "request"),  # no such object, or no permission for it
}
"""Exact (code, subcode) pairs, asked before the code alone."""

PERMISSION_CODES = range(200, 300)
"""All of them are about permissions."""
