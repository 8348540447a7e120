"""`resilience-whatsapp webhook`: it receives, settles, tells, and looks at what was kept."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from resilience_core.cli import Screen
from resilience_whatsapp.cli import _webhook, main
from resilience_whatsapp.cli._webhook import Told
from resilience_whatsapp.errors import graph_error
from resilience_whatsapp.history import History
from resilience_whatsapp.outbox import SQLiteStore
from resilience_whatsapp.webhooks import (
    SIGNATURE_HEADER,
    AccountError,
    AccountUpdate,
    AsideUpdate,
    InboundMessage,
    QualityUpdate,
    SQLiteInbox,
    StatusUpdate,
    TemplateUpdate,
    sign,
)
from tests._cost import unmeasured
from tests.whatsapp.test_command_line import ROOT
from tests.whatsapp.test_command_line_outbox import (
    UNKNOWN,
    Capture,
    at_the_same_time,
    document,
    fill,
    kept,
    row_in,
    wait_until,
)

SECRET, TOKEN = "the secret of the app", "the verify token"
NAMES = ("INBOX", "OUTBOX", "HISTORY", "APP_SECRET", "APP_SECRET_FILE", "VERIFY_TOKEN", "VERIFY_TOKEN_FILE")


@pytest.fixture(autouse=True)
def nothing_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(f"WHATSAPP_{name}", raising=False)


def webhook(row_id: str, status: str, **more: Any) -> bytes:
    told = {
        "id": f"wamid.{row_id[:1]}",
        "status": status,
        "timestamp": f"{time.time():.0f}",
        "biz_opaque_callback_data": row_id,
        **more,
    }
    value = {"messaging_product": "whatsapp", "metadata": {"phone_number_id": "1"}, "statuses": [told]}
    return json.dumps({"entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]}).encode()


def post(url: str, body: bytes, secret: str = SECRET) -> int:
    request = urllib.request.Request(url, body, {SIGNATURE_HEADER: sign(body, secret)})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


@contextmanager
def serving(*words: str, **env: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and its address."""
    command = [sys.executable, "-m", "resilience_whatsapp", "webhook", "serve", "--json", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env={**unmeasured(), **env}) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())["url"]
        finally:
            process.kill()


def test_a_receiver_of_its_own_settles_the_outbox_and_the_history_and_ends_in_good_order(
    tmp_path: Path, capsys: Capture
) -> None:
    outbox, inbox, history = tmp_path / "outbox.db", tmp_path / "inbox.db", tmp_path / "history.db"
    fill(SQLiteStore(outbox), kept(id="a" * 32, **UNKNOWN), kept(id="b" * 32, **UNKNOWN))
    secrets = tmp_path / "secrets"
    secrets.write_text("newer\nolder\n")
    files = ["--inbox", str(inbox), "--outbox", str(outbox), "--history", str(history)]
    secret_words = ["--app-secret-file", str(secrets), "--path", "/hooks"]
    with serving(*files, *secret_words, WHATSAPP_VERIFY_TOKEN=TOKEN) as (process, url):
        assert url.startswith("http://127.0.0.1:")
        assert url.endswith("/hooks")
        query = "?hub.mode=subscribe&hub.verify_token=the%20verify%20token&hub.challenge=17"
        with urllib.request.urlopen(url + query, timeout=20) as answer:
            assert answer.read() == b"17"
        assert post(url, webhook("a" * 32, "delivered"), "older") == 200
        error = {"code": 131026, "title": "my private words"}
        assert post(url, webhook("b" * 32, "failed", errors=[error]), "newer") == 200
        assert post(url, webhook("a" * 32, "read"), "another secret") == 401
        wait_until(lambda: row_in(outbox, "a" * 32).state == "delivered" and row_in(outbox, "b" * 32).state == "failed")
        wait_until(lambda: checked(inbox, capsys).startswith("waiting     0\nset aside   0\n"))
        assert main(["webhook", "check", "--inbox", str(inbox)]) == 0
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    failed, ended = map(json.loads, out.splitlines())
    assert (failed["what"], failed["id"], failed["errors"]) == (
        "message failed",
        "b" * 32,
        ["GraphRecipientError(131026)"],
    )
    assert (ended["what"], ended["taken"], ended["handled"], ended["refused"]) == ("ended", 2, 2, 1)
    assert "private" not in out

    async def story() -> list[str]:
        book = History(history)
        found = await book.get("a" * 32)
        await book.aclose()
        assert found is not None
        return [step.status.value for step in found.steps]

    assert asyncio.run(story()) == ["delivered"]


def checked(inbox: Path, capsys: Capture) -> str:
    capsys.readouterr()
    main(["webhook", "check", "--inbox", str(inbox)])
    return capsys.readouterr().out


def test_what_is_set_aside_is_told_and_waits_again_when_asked(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "inbox.db"
    part = json.dumps(["status", "messages", "1", "1", None, {"id": "wamid.my-private-words"}, None])
    now = time.time()
    monkeypatch.setattr(_webhook, "time", SimpleNamespace(time=lambda: now))

    async def work() -> None:
        inbox = SQLiteInbox(path)
        await inbox.take([(b"%d" % number, part) for number in range(4)], now - 1000, 100)
        claim = await inbox.claim(3, now, now + 60, True)
        for item in claim.items:
            await inbox.put_off(item.id, frozenset({"outbox"}), None)
        await inbox.aclose()

    asyncio.run(work())
    words = ["--inbox", str(path)]
    assert main(["webhook", "check", *words]) == 1
    out, err = capsys.readouterr()
    assert out.startswith(
        "waiting     1, the oldest for 16m 40s\nset aside   3\nlast heard  never\nlast up     never\n"
    )
    assert "messages  16m 40s  outbox" in out
    assert "private" not in out
    assert "no receiver is up" in err
    assert "what waits is not handled" in err
    assert "webhook try-again" in err
    assert main(["webhook", "check", *words, "--json", "--limit", "1"]) == 1
    told = document(capsys)
    assert (told["waiting"], told["set_aside"], len(told["aside"]), len(told["wrong"])) == (1, 3, 1, 3)
    assert main(["webhook", "try-again", *words]) == 2
    assert main(["webhook", "try-again", *words, "1", "99"]) == 1
    assert capsys.readouterr().out == "1 wait again; 1 were not set aside\n"
    assert main(["webhook", "try-again", *words, "--all", "--json"]) == 0
    assert document(capsys) == {"waiting": 2, "not_found": 0}


def test_what_somebody_should_know_is_a_line_without_anything_personal() -> None:
    screen = Screen(out=StringIO(), env={})
    told = Told(screen)
    error = graph_error(131042, None, False, None)
    for update in (
        StatusUpdate(topic="messages", wamid="wamid.1", status="delivered"),
        StatusUpdate(topic="messages", wamid="wamid.1", record_id="a", status="failed", errors=(error,)),
        TemplateUpdate(topic="message_template_status_update", name="t\x1b", language="fr", event="PAUSED"),
        AccountUpdate(topic="account_update", event="ACCOUNT_RESTRICTION"),
        QualityUpdate(topic="phone_number_quality_update", event="FLAGGED", display_number="+33612345678"),
        AccountError(topic="messages", errors=(error,)),
        InboundMessage(topic="messages", wamid="wamid.2", kind="text", sender="33612345678"),
    ):
        told.update(update)
    told.set_aside(AsideUpdate(7, 0.0, StatusUpdate(topic="messages", wamid="w", status="sent"), ("outbox",)))
    with told.logs():
        logging.getLogger("resilience_whatsapp.webhooks").warning("It failed", extra={"error": "OSError"})
    lines = [line.split(" ", 2)[2] for line in screen.out.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert lines == [
        "message failed id=a errors=GraphSenderError(131042)",
        "template topic=message_template_status_update name=t\\x1b language=fr event=PAUSED",
        "account event=ACCOUNT_RESTRICTION",
        "number event=FLAGGED",
        "account errors=GraphSenderError(131042)",
        "set aside id=7 topic=messages missing=outbox",
        "It failed error=OSError",
    ]


def test_with_json_each_line_is_an_object() -> None:
    out = StringIO()
    Told(Screen(out=out, env={}, as_json=True)).line("ended", taken=0, url=None, missing=())
    told = json.loads(out.getvalue())
    assert abs(told.pop("at") - time.time()) < 60
    assert told == {"what": "ended", "taken": 0}


def test_lines_that_nobody_reads_any_more_stop_no_webhook() -> None:
    class Gone(StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    Told(Screen(out=Gone(), env={})).update(StatusUpdate(topic="messages", wamid="wamid.1", status="failed"))


def test_what_a_receiver_needs_is_named(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = ["--inbox", str(tmp_path / "inbox.db")]
    for words, told in (
        (["serve"], "the inbox is not named"),
        (["check", *inbox], "there is no file inbox.db"),
        (["serve", *inbox], "the app's secret is missing"),
        (["serve", *inbox, "--port", "70000"], "0 to 65535"),
        (["serve", *inbox, "--path", "hooks"], "begin with /"),
    ):
        assert main(["webhook", *words]) == 2
        assert told in capsys.readouterr().err
    monkeypatch.setenv("WHATSAPP_APP_SECRET", SECRET)
    assert main(["webhook", "serve", *inbox]) == 2
    assert "the verify token is missing" in capsys.readouterr().err
    monkeypatch.setenv("WHATSAPP_VERIFY_TOKEN", TOKEN)
    assert main(["webhook", "serve", "--inbox", str(tmp_path)]) == 2
    assert main(["webhook", "serve", *inbox, "--outbox", str(tmp_path / "none.db")]) == 2


def test_ctrl_c_ends_a_receiver_with_0(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "secret").write_text(SECRET)
    monkeypatch.setenv("WHATSAPP_APP_SECRET", "the secret of the app")
    monkeypatch.setenv("WHATSAPP_VERIFY_TOKEN_FILE", str(tmp_path / "secret"))
    outbox, history = tmp_path / "outbox.db", tmp_path / "history.db"
    fill(SQLiteStore(outbox), kept(id="a" * 32, **UNKNOWN))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    # `app-secret` is one with blanks: a line is a secret.
    body = webhook("a" * 32, "read")

    def platform() -> None:
        def taken() -> bool:
            try:
                return post(f"http://127.0.0.1:{port}/", body) == 200
            except urllib.error.URLError:
                return False

        wait_until(taken)
        wait_until(lambda: row_in(outbox, "a" * 32).state == "read")
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)

    files = ["--inbox", str(tmp_path / "inbox.db"), "--outbox", str(outbox), "--history", str(history)]
    with at_the_same_time(platform):
        assert main(["webhook", "serve", "--port", str(port), *files]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first.endswith(f" listening url=http://127.0.0.1:{port}/")
    assert " ended taken=1 repeated=0 handled=" in last


def test_a_file_that_is_no_inbox_is_told(tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "none.db").write_bytes(b"no database, however long it may be" * 100)
    assert main(["webhook", "check", "--inbox", str(tmp_path / "none.db")]) == 2
    assert "cannot be read (DatabaseError)" in capsys.readouterr().err


def test_an_address_that_is_taken_is_told(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WHATSAPP_APP_SECRET", SECRET)
    monkeypatch.setenv("WHATSAPP_VERIFY_TOKEN", TOKEN)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["webhook", "serve", "--inbox", str(tmp_path / "inbox.db"), "--port", port]) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in capsys.readouterr().err
