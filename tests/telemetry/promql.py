"""As much of Prometheus as the dashboard, the alerts and the docs use: its text format and its query language.

`rate` and `increase` are the differences between two scrapes, and what the first one does not show was 0 then. So the
numbers are exact, where Prometheus extrapolates. `offset` reads the first scrape.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from attrs import frozen

Labels: TypeAlias = frozenset[tuple[str, str]]
Vector: TypeAlias = dict[Labels, float]

# --- scrapes ----------------------------------------------------------------------------------------------------------

_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)")
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


@frozen
class Scrape:
    """The series of one look at an endpoint."""

    series: Mapping[str, Vector]

    @classmethod
    def of(cls, text: str) -> Scrape:
        found: dict[str, Vector] = {}
        for line in text.splitlines():
            if line and not line.startswith("#"):
                match = _SAMPLE.fullmatch(line)
                assert match is not None, line
                name, labels, value = match.groups()
                found.setdefault(name, {})[frozenset(_LABEL.findall(labels or ""))] = float(value)
        return cls(found)

    def labels(self, name: str) -> set[str]:
        """Names of the labels that the series of a metric have."""
        return {key for labels in self.series.get(name, {}) for key, _ in labels}


# --- expressions ------------------------------------------------------------------------------------------------------


@frozen
class Selector:
    name: str
    matchers: tuple[tuple[str, str, str], ...]
    window: bool = False
    offset: bool = False

    def matches(self, labels: Labels) -> bool:
        values = dict(labels)
        return all(_MATCH[sign](values.get(key, ""), value) for key, sign, value in self.matchers)


@frozen
class Call:
    name: str
    args: tuple[Any, ...]
    by: tuple[str, ...] | None = None
    """Labels of an aggregation."""


@frozen
class Binary:
    sign: str
    left: Any
    right: Any


_MATCH: dict[str, Callable[[str, str], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "=~": lambda value, pattern: re.fullmatch(pattern, value) is not None,
    "!~": lambda value, pattern: re.fullmatch(pattern, value) is None,
}
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>\d+(?:\.\d+)?)(?![\w])|(?P<duration>\d+[smhd])|(?P<name>[a-zA-Z_:][\w:]*)
    |(?P<text>"(?:[^"\\]|\\.)*")|(?P<sign>=~|!~|!=|==|>=|<=|[-+*/><=(){}\[\],]))""",
    re.VERBOSE,
)
_LEVELS = (("or",), ("and", "unless"), ("==", "!=", ">", "<", ">=", "<="), ("+", "-"), ("*", "/"))
_AGGREGATIONS = {"sum", "max", "min"}
_FUNCTIONS = {"rate", "increase", "vector", "histogram_quantile"}


def parse(text: str) -> Any:
    """The expression; AssertionError for what is none."""
    parser = _Parser(text)
    expression = parser.level(0)
    assert parser.next is None, f"{text}: {parser.next} is left"
    return expression


class _Parser:
    def __init__(self, text: str) -> None:
        self._tokens = self._split(text)
        self.next: tuple[str, str] | None = None
        self.advance()

    @staticmethod
    def _split(text: str) -> Iterator[tuple[str, str]]:
        at = 0
        while at < len(text.rstrip()):
            match = _TOKEN.match(text, at)
            assert match is not None, f"{text!r} at {text[at:]!r}"
            at = match.end()
            yield str(match.lastgroup), match[str(match.lastgroup)]

    def advance(self) -> tuple[str, str]:
        token, self.next = self.next, next(self._tokens, None)
        return token or ("", "")

    def take(self, value: str) -> None:
        token = self.advance()
        assert token[1] == value, f"{value} was expected, not {token[1]}"

    def sees(self, *values: str) -> bool:
        return self.next is not None and self.next[0] != "text" and self.next[1] in values

    def level(self, number: int) -> Any:
        if number == len(_LEVELS):
            return self.atom()
        left = self.level(number + 1)
        while self.sees(*_LEVELS[number]):
            sign = self.advance()[1]
            left = Binary(sign, left, self.level(number + 1))
        return left

    def atom(self) -> Any:
        kind, text = self.advance()
        if kind == "number":
            return float(text)
        if text == "(":
            inside = self.level(0)
            self.take(")")
            return inside
        assert kind == "name", f"{text!r} begins nothing"
        if text in _AGGREGATIONS:
            by: tuple[str, ...] = ()
            if self.sees("by"):
                self.advance()
                self.take("(")
                by = tuple(self.listed(")", lambda: self.advance()[1]))
            self.take("(")
            return Call(text, tuple(self.listed(")", lambda: self.level(0))), by)
        if text in _FUNCTIONS:
            self.take("(")
            return Call(text, tuple(self.listed(")", lambda: self.level(0))))
        return self.selector(text)

    def selector(self, name: str) -> Selector:
        matchers: tuple[tuple[str, str, str], ...] = ()
        if self.sees("{"):
            self.advance()
            matchers = tuple(self.listed("}", self.matcher))
        window = offset = False
        if self.sees("["):
            self.advance()
            assert self.advance()[0] == "duration"
            self.take("]")
            window = True
        if self.sees("offset"):
            self.advance()
            assert self.advance()[0] == "duration"
            offset = True
        return Selector(name, matchers, window, offset)

    def matcher(self) -> tuple[str, str, str]:
        (kind, key), (_, sign), (what, value) = self.advance(), self.advance(), self.advance()
        assert (kind, what) == ("name", "text")
        assert sign in _MATCH
        return key, sign, value[1:-1]

    def listed(self, end: str, read: Callable[[], Any]) -> Iterator[Any]:
        while True:
            yield read()
            if self.sees(end):
                self.advance()
                return
            self.take(",")


def parts(expression: Any) -> Iterator[Any]:
    """All nodes."""
    yield expression
    for part in (expression.left, expression.right) if isinstance(expression, Binary) else ():
        yield from parts(part)
    for part in expression.args if isinstance(expression, Call) else ():
        yield from parts(part)


def selectors(expression: Any) -> list[Selector]:
    return [part for part in parts(expression) if isinstance(part, Selector)]


def grouped_by(expression: Any) -> list[tuple[str, list[Selector]]]:
    """Each label that is aggregated by, and the selectors that must have it."""
    found = []
    for part in parts(expression):
        if isinstance(part, Call) and part.by is not None:
            found += [(label, selectors(part)) for label in part.by]
    return found


# --- evaluation -------------------------------------------------------------------------------------------------------


@frozen
class Prometheus:
    """Two scrapes and the seconds between them."""

    first: Scrape
    last: Scrape
    seconds: float = 1.0

    def query(self, text: str) -> Vector:
        """The series of the answer, without the name; a number has no labels."""
        found = self._evaluate(parse(text))
        return {frozenset(): found} if isinstance(found, float) else found

    def value(self, text: str) -> float:
        """The only series of the answer."""
        (value,) = self.query(text).values()
        return value

    def _evaluate(self, node: Any) -> Any:
        if isinstance(node, float):
            return node
        if isinstance(node, Selector):
            scrape = self.first if node.offset else self.last
            return {labels: value for labels, value in scrape.series.get(node.name, {}).items() if node.matches(labels)}
        if isinstance(node, Binary):
            return _combined(node.sign, self._evaluate(node.left), self._evaluate(node.right))
        if node.name in _AGGREGATIONS:
            return _aggregated(node, self._evaluate(node.args[0]))
        if node.name == "vector":
            return {frozenset(): node.args[0]}
        if node.name == "histogram_quantile":
            return _quantiles(node.args[0], self._evaluate(node.args[1]))
        (selector,) = node.args
        assert selector.window, f"{node.name} needs a window"
        before = self.first.series.get(selector.name, {})
        seconds = self.seconds if node.name == "rate" else 1.0
        return {
            labels: (value - before.get(labels, 0.0)) / seconds for labels, value in self._evaluate(selector).items()
        }


_COMPARE: dict[str, Callable[[float, float], bool]] = {
    "==": operator.eq,
    "!=": operator.ne,
    ">": operator.gt,
    "<": operator.lt,
    ">=": operator.ge,
    "<=": operator.le,
}
_CALCULATE: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "/": lambda left, right: left / right if right else math.nan,
}


def _combined(sign: str, left: Any, right: Any) -> Any:
    if sign == "or":
        return {**right, **left}
    if sign == "unless":
        return {labels: value for labels, value in left.items() if labels not in right}
    if sign == "and":
        return {labels: value for labels, value in left.items() if labels in right}
    if isinstance(left, float) and isinstance(right, float):
        return _CALCULATE[sign](left, right)
    pairs: dict[Labels, tuple[float, float]]
    if isinstance(left, float):
        pairs = {labels: (left, value) for labels, value in right.items()}
    elif isinstance(right, float):
        pairs = {labels: (value, right) for labels, value in left.items()}
    else:
        pairs = {labels: (value, right[labels]) for labels, value in left.items() if labels in right}
    if sign in _COMPARE:
        return {labels: pair[0] for labels, pair in pairs.items() if _COMPARE[sign](*pair)}
    return {labels: _CALCULATE[sign](*pair) for labels, pair in pairs.items()}


def _aggregated(node: Call, values: Vector) -> Vector:
    groups: dict[Labels, list[float]] = {}
    for labels, value in values.items():
        group = frozenset((key, text) for key, text in labels if node.by is not None and key in node.by)
        groups.setdefault(group, []).append(value)
    join: Callable[[Sequence[float]], float] = {"sum": math.fsum, "max": max, "min": min}[node.name]
    return {labels: join(group) for labels, group in groups.items()}


def _quantiles(share: float, buckets: Vector) -> Vector:
    """As Prometheus does it: linear within the bucket that holds the quantile."""
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        groups.setdefault(frozenset(pair for pair in labels if pair[0] != "le"), []).append((bound, count))
    return {labels: _quantile(share, sorted(group)) for labels, group in groups.items()}


def _quantile(share: float, buckets: list[tuple[float, float]]) -> float:
    rank = share * buckets[-1][1]
    lower = below = 0.0
    for bound, count in buckets:
        if count >= rank and count > 0:
            return lower if math.isinf(bound) else lower + (bound - lower) * (rank - below) / (count - below)
        lower, below = bound, count
    return math.nan
