"""`resilience-whatsapp history`: messages that fit, and every step of one."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest

from resilience_whatsapp.cli import main
from resilience_whatsapp.history import History
from resilience_whatsapp.records import MessageStatus
from resilience_whatsapp.webhooks import StatusUpdate
from tests.whatsapp.test_command_line_outbox import MASKED, NUMBER, UNKNOWN, Capture, document, kept

SECRET = "a secret of sixteen letters and more"


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WHATSAPP_HISTORY", "WHATSAPP_HISTORY_SECRET", "WHATSAPP_HISTORY_SECRET_FILE"):
        monkeypatch.delenv(name, raising=False)


def remember(path: Path, secret: str | None = None) -> None:
    async def work() -> None:
        history, now = History(path, hash_recipients=secret), time.time()
        rows = [
            kept(id="old", created_at=now - 7200, **UNKNOWN),
            kept(id="new", template="order", language="fr", kind="template", state=MessageStatus.ACCEPTED, wamid="w.1"),
        ]
        for row in rows:
            history.add(row.record(), TimeoutError("my private words") if row.id == "old" else None)
        await history.on_update(StatusUpdate(topic="messages", wamid="w.2", status="failed"))
        await history.aclose()

    asyncio.run(work())


def test_messages_are_found_masked_and_in_pages(tmp_path: Path, capsys: Capture) -> None:
    remember(path := tmp_path / "history.db")
    words = ["history", "find", "--history", str(path)]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert MASKED in out
    assert NUMBER not in out

    def ids(*more: str) -> list[str]:
        assert main([*words, "--json", *more]) == 0
        return [each["id"] for each in document(capsys)["messages"]]

    assert ids() == ["w.2", "new", "old"]
    assert ids("--since", "1h") == ["w.2", "new"]
    assert ids("--until", "1h") == ids("--status", "unknown") == ["old"]
    assert ids("--template", "order") == ["new"]
    assert ids("--recipient", NUMBER, "--user", "7") == ["new", "old"]
    assert main([*words, "--limit", "2"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("the next page: --after ")
    assert ids("--after", last.split()[-1]) == ["old"]
    assert main([*words, "--template", "none"]) == 0
    assert capsys.readouterr().out == "no message fits\n"


def test_one_message_is_shown_with_its_steps(tmp_path: Path, capsys: Capture) -> None:
    remember(path := tmp_path / "history.db")
    words = ["--history", str(path)]
    assert main(["history", "show", "old", *words]) == 0
    out = capsys.readouterr().out
    assert "status             unknown\n" in out
    assert "TimeoutError" in out
    assert "private" not in out
    assert main(["history", "show", "w.1", *words, "--json", "--show-recipients"]) == 0
    told = document(capsys)
    assert (told["id"], told["recipient"]) == ("new", NUMBER)
    assert [step["status"] for step in told["steps"]] == ["accepted"]
    assert main(["history", "show", "w.2", *words]) == 0
    assert main(["history", "show", "nobody", *words]) == 2


def test_hashed_recipients_are_found_with_the_secret_only(tmp_path: Path, capsys: Capture) -> None:
    remember(path := tmp_path / "history.db", SECRET)
    file = tmp_path / "secret"
    file.write_text(SECRET)
    words = ["history", "find", "--history", str(path), "--recipient", NUMBER, "--json"]
    assert main(words) == 0
    assert document(capsys)["messages"] == []
    assert main([*words, "--history-secret-file", str(file)]) == 0
    told = document(capsys)["messages"]
    assert len(told) == 2
    assert NUMBER not in json.dumps(told)
    file.write_text("short")
    assert main([*words, "--history-secret-file", str(file)]) == 2


def test_what_is_wrong_is_told(tmp_path: Path, capsys: Capture) -> None:
    assert main(["history", "find"]) == 2
    assert "the history is not named" in capsys.readouterr().err
    remember(path := tmp_path / "history.db")
    assert main(["history", "find", "--history", str(path), "--after", "x"]) == 2
    assert main(["history", "find", "--history", str(path), "--limit", "5000"]) == 2
