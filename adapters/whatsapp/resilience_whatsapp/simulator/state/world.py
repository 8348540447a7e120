"""Who exists: business portfolios, their accounts (WABAs), the accounts' phone numbers, and the tokens of apps.

    Portfolio 1 -- n Account 1 -- n Number        Token: of one app, for all accounts or some

All attributes may be changed while the simulator runs. `World` finds each object by its id in one step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from attrs import define, field

from resilience_whatsapp.simulator.envelopes import Refusal
from resilience_whatsapp.simulator.state.standing import AccountStanding, NumberStanding, Rights
from resilience_whatsapp.simulator.templates.definitions import SimTemplate

APP_ID = "634974688087057"
PORTFOLIO_ID = "506914307656634"


@define
class Block:
    """Why all sends of a number or an account are refused, until it is lifted: spam, policy, payment, maintenance."""

    code: int
    until: float | None = None
    """The API's time at which it ends by itself; None is until somebody lifts it."""


@define(eq=False)
class Portfolio:
    """A business portfolio: the messaging limit is its."""

    id: str
    accounts: list[Account] = field(factory=list, repr=False)


@define(eq=False)
class Account:
    """A WhatsApp business account (WABA)."""

    id: str
    portfolio: Portfolio = field(repr=False)
    templates: list[SimTemplate] = field(factory=list)
    numbers: list[Number] = field(factory=list, repr=False)
    block: Block | None = None
    standing: AccountStanding = field(factory=AccountStanding)
    apps: set[str] = field(factory=lambda: {APP_ID})
    """Ids of the apps that are subscribed to its webhooks; without any, nobody is told of it."""

    @property
    def account(self) -> Account:
        """Itself: whatever is asked for belongs to an account."""
        return self


@define(eq=False)
class Number:
    """A business phone number, which sends."""

    id: str
    account: Account = field(repr=False)
    digits: str
    """International, without the `+`."""
    throughput_level: str = "STANDARD"
    """`STANDARD`, `HIGH` or `NOT_APPLICABLE`, as the API tells it."""
    throughput: float | None = None
    """Messages in a second, when they are not those of the level: 20 for a number shared with the phone's app."""
    quality: str = "GREEN"
    block: Block | None = None
    standing: NumberStanding = field(factory=NumberStanding)

    def refusal_of(self, payload: dict[str, Any]) -> Refusal | None:
        """Why it may not send this message, by its standing or that of its account."""
        code = self.standing.code()
        return self.account.standing.refusal_of(payload) if code is None else Refusal(code)

    def blocked(self, now: float) -> Block | None:
        """What blocks it at this time: its own block, or that of its account."""
        for owner in (self, self.account):
            block = owner.block
            if block is not None and (block.until is None or now < block.until):
                return block
        return None


@define(eq=False)
class Token:
    """What a client shows; `accounts` None is for all."""

    value: str = field(repr=False)
    app_id: str = APP_ID
    account_ids: frozenset[str] | None = None
    expires_at: float | None = None
    """The API's time after which it is refused as expired (190, subcode 463)."""
    rights: Rights = field(factory=Rights)

    def reaches(self, account: Account) -> bool:
        """Whether it may see what belongs to `account`."""
        return self.account_ids is None or account.id in self.account_ids


class InAccount(Protocol):
    """What an id of the API stands for."""

    @property
    def account(self) -> Account:
        """Whose it is."""
        ...


class World:
    """All of them, by id."""

    def __init__(self) -> None:
        self.portfolios: dict[str, Portfolio] = {}
        self.accounts: dict[str, Account] = {}
        self.numbers: dict[str, Number] = {}
        self.tokens: dict[str, Token] = {}

    def add_portfolio(self, id: str | None = None) -> Portfolio:
        """A new portfolio; without an id it gets the next free one, and so with all others."""
        portfolio = Portfolio(id or _next_id(PORTFOLIO_ID, self.portfolios))
        self.portfolios[portfolio.id] = portfolio
        return portfolio

    def add_account(
        self, portfolio: Portfolio, id: str | None = None, *, templates: Sequence[SimTemplate] = ()
    ) -> Account:
        """A new account of `portfolio`."""
        account = Account(id or _next_id("102290129340398", self.accounts), portfolio, list(templates))
        portfolio.accounts.append(account)
        self.accounts[account.id] = account
        return account

    def add_number(self, account: Account, id: str | None = None, *, digits: str | None = None) -> Number:
        """A new number of `account`."""
        new = id or _next_id("106540352242922", self.numbers)
        number = Number(new, account, digits or str(15_550_783_881 + len(self.numbers)))
        account.numbers.append(number)
        self.numbers[number.id] = number
        return number

    def add_token(
        self,
        value: str,
        *,
        app_id: str = APP_ID,
        accounts: Iterable[str] | None = None,
        expires_at: float | None = None,
    ) -> Token:
        """A new token, for the accounts with these ids; None is for all."""
        token = Token(value, app_id, None if accounts is None else frozenset(accounts), expires_at)
        self.tokens[value] = token
        return token


def _next_id(first: str, taken: Iterable[str]) -> str:
    used = set(taken)
    number = int(first)
    while str(number) in used:
        number += 1
    return str(number)
