"""The wrong configurations of golden.txt, and the errors that they end in.

Each case there is

    ==== its-name
    @ environment NAME          which overlay is chosen
    @ env NAME=VALUE            an environment variable, set
    @ mapping | legacy | file   a Python literal for from_mapping or from_legacy; the kind of a bad file; TOML otherwise
    @ beyond-schema WHY         a JSON Schema accepts it: it cannot express what is wrong
    the input
    ----
    the error
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from attrs import field, frozen

from resilience_core import config

FILE = Path(__file__).with_name("golden.txt")
SOURCE = "resilience.toml"


@frozen
class Case:
    name: str
    head: str
    """All of it down to the error, as it is written."""
    form: str
    environment: str | None
    env: Mapping[str, str] | None
    beyond_schema: str | None
    given: str
    error: str = field(repr=False)

    def load(self) -> config.Configuration:
        options: dict[str, Any] = {"environment": self.environment, "env": self.env}
        if self.form == "file":
            return config.load(self._bad_file(), **options)
        if self.form == "legacy":
            return config.from_legacy(ast.literal_eval(self.given))
        if self.form == "mapping":
            return config.from_mapping(ast.literal_eval(self.given), **options)
        return config.from_toml(self.given, source=SOURCE, **options)

    def document(self) -> Any:
        """What a JSON Schema would judge; None where there is nothing to judge: no TOML, or right by itself."""
        if self.form in ("file", "legacy") or self.env is not None:
            return None
        try:
            return tomllib.loads(self.given) if self.form == "toml" else ast.literal_eval(self.given)
        except tomllib.TOMLDecodeError:
            return None

    def _bad_file(self) -> Path:
        """Such a file in the working directory, which is one for tests."""
        path, kind = Path(SOURCE), self.given.strip()
        if kind == "a directory":
            path.mkdir()
        elif kind == "not UTF-8":
            path.write_bytes("# Größe\n".encode("latin-1"))
        elif kind == "too large":
            path.write_bytes(b"#" * (1024 * 1024 + 1))
        elif kind == "unreadable":
            path.symlink_to(path)
        else:
            assert kind == "missing"
        return path

    def text(self, error: str) -> str:
        """The case as it is written in the file, with this error."""
        return f"{self.head}\n----\n{error}\n"


def read() -> list[Case]:
    return [_case(text) for text in re.split(r"^(?===== )", FILE.read_text("utf-8"), flags=re.MULTILINE)[1:]]


def write(errors: Mapping[str, str]) -> None:
    FILE.write_text("\n".join(case.text(errors[case.name]) for case in read()), "utf-8")


def _case(text: str) -> Case:
    head, _, error = text.rstrip("\n").partition("\n----")
    lines = head.split("\n")
    marks = [line[2:].partition(" ")[::2] for line in lines if line.startswith("@ ")]
    options = dict(marks)
    variables = dict(value.split("=", 1) for name, value in marks if name == "env")
    return Case(
        name=lines[0].removeprefix("==== "),
        head=head,
        form=next((form for form in ("mapping", "legacy", "file") if form in options), "toml"),
        environment=options.get("environment"),
        env=variables or None,
        beyond_schema=options.get("beyond-schema"),
        given="\n".join(line for line in lines[1:] if not line.startswith("@ ")),
        error=error.removeprefix("\n"),
    )
