"""`resilience-whatsapp`: what it sends and tells, how it ends, and that it shows no token, number or text."""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from resilience_whatsapp import split_opaque_data
from resilience_whatsapp.cli import COMMANDS, main
from resilience_whatsapp.outbox import SQLiteStore
from resilience_whatsapp.records import MessageStatus
from resilience_whatsapp.simulator import Fault, SimulatorThread
from resilience_whatsapp.simulator.state.world import Block
from resilience_whatsapp.simulator.templates.definitions import SimTemplate
from tests._cost import unmeasured
from tests.whatsapp.outbox.stores import a_row

ROOT = Path(__file__).parent.parent.parent
RECIPIENT, MASKED = "+33612345678", "+33******78"
TEMPLATE = ("--template", "order_confirmation", "--language", "fr", "--value", "1234", "--value", "lundi")
SECRETS = ("EAAGsecrettoken", "33612345678", "my private words")
NAMES = ("WHATSAPP_TOKEN", "WHATSAPP_TOKEN_FILE", "WHATSAPP_PHONE_NUMBER_ID", "WHATSAPP_WABA_ID", "WHATSAPP_BASE_URL")
OTHERS = ("WHATSAPP_API_VERSION", "WHATSAPP_OUTBOX", "WHATSAPP_HISTORY")


def variables(simulator: SimulatorThread) -> dict[str, str]:
    """Of the environment, as a user of this simulator has them."""
    api = simulator.simulator
    values = (api.token, "", api.phone_number_id, api.waba_id, simulator.base_url)
    return dict(zip(NAMES, values, strict=True))


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*NAMES, *OTHERS):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorThread]:
    with SimulatorThread() as started:
        for name, value in variables(started).items():
            monkeypatch.setenv(name, value)
        yield started


@pytest.fixture
def impatient(tmp_path: Path) -> tuple[str, str]:
    """Words for retries that wait for next to nothing."""
    path = tmp_path / "resilience.toml"
    path.write_text(
        "[policies.whatsapp_api.retry]\nmax_attempts = 2\nbase_delay = 0.001\n"
        "[policies.whatsapp_api.circuit_breaker]\n[policies.whatsapp_api.timeout]\nseconds = 30\n"
        "[environments.once.policies.whatsapp_api.retry]\nmax_attempts = 1\n"
    )
    return "--config", str(path)


# --- the program -----------------------------------------------------------------------------------------------------


def test_a_process_sends_to_the_simulator_that_another_process_of_it_serves() -> None:
    program = [sys.executable, "-m", "resilience_whatsapp"]
    command = [*program, "simulate", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as served:
        assert served.stdout is not None
        base_url = served.stdout.readline().split()[-1]
        env = {**unmeasured(), "WHATSAPP_TOKEN": "simulator-token", "WHATSAPP_BASE_URL": base_url}
        words = ["send", RECIPIENT, *TEMPLATE, "--phone-number-id", "106540352242922", "--json"]
        done = subprocess.run([*program, *words], capture_output=True, text=True, check=False, env=env, cwd=ROOT)
        served.terminate()
        rest = served.stdout.read()
    assert (done.returncode, done.stderr, served.returncode) == (0, "", 0), rest
    told = json.loads(done.stdout)
    assert (told["status"], told["recipient"], told["attempts"]) == ("accepted", MASKED, 1)
    assert told["wamid"].startswith("wamid.")


def test_the_entry_point_is_the_program() -> None:
    project = tomllib.loads((ROOT / "adapters" / "whatsapp" / "pyproject.toml").read_text())
    module, _, name = project["project"]["scripts"]["resilience-whatsapp"].partition(":")
    assert getattr(importlib.import_module(module), name) is main


@pytest.mark.parametrize("command", [None, *COMMANDS])
def test_each_command_explains_itself(command: str | None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"] if command is None else [command, "--help"]) == 0
    told = capsys.readouterr().out
    assert told.startswith("usage: ")
    if command is None:
        assert all(each in told for each in COMMANDS)
        assert main(["--version"]) == 0


# --- send ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "kind"),
    [
        (TEMPLATE, "template order_confirmation fr"),
        (("--template", "hello_world", "--language", "en_US"), "template hello_world en_US"),
        (("--text", "my private words", "--reply-to", "wamid.x"), "text"),
    ],
)
def test_what_was_accepted_is_told_with_the_recipient_masked(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], kind: str
) -> None:
    assert main(["send", RECIPIENT, *words]) == 0
    [entry] = simulator.book.entries
    out, err = capsys.readouterr()
    assert out.startswith(f"accepted  {entry.wamid}  {MASKED}  {kind}  1 attempt, ")
    assert err == ""
    assert not any(secret in out for secret in SECRETS)


def test_the_recipient_is_shown_where_that_is_asked_for(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["send", RECIPIENT, "--text", "hello", "--show-recipients"]) == 0
    assert RECIPIENT in capsys.readouterr().out


def test_a_text_and_a_whole_request_come_from_the_input_or_a_file(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.stdin", StringIO("my private words"))
    assert main(["send", RECIPIENT, "--text", "-"]) == 0
    request = {"messaging_product": "whatsapp", "to": RECIPIENT, "type": "image", "image": {"link": "https://a.b/c"}}
    file = tmp_path / "message.json"
    file.write_text(json.dumps({**request, "biz_opaque_callback_data": "order 7"}))
    assert main(["send", "--request", str(file)]) == 0
    assert [(entry.type, split_opaque_data(entry.opaque)[1]) for entry in simulator.book.entries] == [
        ("text", None),
        ("image", "order 7"),
    ]


def test_named_values_are_given_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    body = {"type": "BODY", "text": "Hello {{day}}"}
    template = SimTemplate("named", "fr", components=[body], parameter_format="NAMED")
    with SimulatorThread(templates=[template]) as simulator, pytest.MonkeyPatch.context() as patch:
        for name, value in variables(simulator).items():
            patch.setenv(name, value)
        words = ["send", RECIPIENT, "--template", "named", "--language", "fr", "--named", "--value"]
        assert main([*words, "day=lundi"]) == 0
        assert main([*words, "lundi"]) == 2
        assert len(simulator.book.entries) == 1
    assert "NAME=V" in capsys.readouterr().err


def test_a_refused_message_ends_with_1_and_what_helps(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("error", code=131026))
    assert main(["send", RECIPIENT, "--text", "my private words", "--json"]) == 1
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert (told["status"], told["graph"]["code"], told["graph"]["class"]) == ("failed", 131026, "RECIPIENT")
    assert err.startswith("resilience-whatsapp: not sent: WhatsApp API: this recipient cannot be reached (code 131026")
    assert not any(secret in out + err for secret in SECRETS)


def test_trouble_of_the_platform_is_met_with_retries_that_are_told(
    simulator: SimulatorThread, impatient: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("error", code=2))
    assert main(["send", RECIPIENT, "--text", "hello", *impatient]) == 0
    out, err = capsys.readouterr()
    assert "  2 attempts, " in out
    assert err == "attempt 1 failed: GraphTransientError(2); again in 0.0s\n"
    simulator.script(Fault("error", code=2))
    assert main(["send", RECIPIENT, "--text", "hello", *impatient, "--environment", "once"]) == 1


def test_an_unknown_outcome_is_sent_again_or_ends_with_4(
    simulator: SimulatorThread, impatient: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("reset_after_accept"))
    assert main(["send", RECIPIENT, "--text", "hello", *impatient]) == 0
    assert "it may arrive twice" in capsys.readouterr().out
    assert len(simulator.book.entries) == 2
    simulator.script(Fault("html", accepted=True))
    assert main(["send", RECIPIENT, "--text", "hello", *impatient, "--at-most-once", "--json"]) == 4
    out, err = capsys.readouterr()
    assert (json.loads(out)["status"], json.loads(out)["graph"]["http_status"]) == ("unknown", 502)
    assert err.startswith("resilience-whatsapp: perhaps sent: ")
    simulator.script(Fault("reset_after_accept"))
    assert main(["send", RECIPIENT, "--text", "hello", *impatient, "--at-most-once", "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["graph"] is None
    assert len(simulator.book.entries) == 4


def test_an_api_that_is_not_there_ends_with_3(
    simulator: SimulatorThread, impatient: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.stop_listening()
    assert main(["send", RECIPIENT, "--text", "hello", *impatient]) == 3
    assert main(["status"]) == 3
    assert main(["templates", "hello_world"]) == 3
    err = capsys.readouterr().err
    assert f"not sent: {simulator.base_url} cannot be reached (ClientConnectorError)" in err


def test_a_circuit_that_opens_ends_the_attempts(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "resilience.toml"
    file.write_text(
        "[policies.whatsapp_api.retry]\nbase_delay = 0.001\n[policies.whatsapp_api.circuit_breaker]\n"
        "failure_threshold = 1\n"
    )
    simulator.script(Fault("error", code=2))
    assert main(["send", RECIPIENT, "--text", "hello", "--config", str(file)]) == 1
    assert "not sent: CircuitOpenError" in capsys.readouterr().err
    assert not simulator.book.entries


def test_an_interrupted_send_tells_that_it_was_perhaps_sent(simulator: SimulatorThread) -> None:
    simulator.script(Fault("hang_after_accept", seconds=60))
    command = [sys.executable, "-m", "resilience_whatsapp", "send", RECIPIENT, "--text", "hello"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT) as process:
        while not simulator.book.entries:
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert err.startswith("resilience-whatsapp: interrupted, and perhaps sent\n  wait for a webhook")
    assert len(err.splitlines()) == 2


def test_an_interrupt_before_anything_was_sent_tells_nothing(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def interrupted(*args: Any, **options: Any) -> None:
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr("resilience_whatsapp.cli._send.WhatsAppService.send", interrupted)
    assert main(["send", RECIPIENT, "--text", "hello"]) == 130
    assert capsys.readouterr() == ("", "")
    assert not simulator.book.entries


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "COMMAND"),
        (["sned", RECIPIENT], "did you mean 'send'"),
        ([SECRETS[0]], "unknown command '...'"),
        (["send"], "--text --template --request"),
        (["send", "--text", SECRETS[2]], "the recipient is missing"),
        (["send", "0612345678", "--text", SECRETS[2]], "PhoneNumber.number must be +"),
        (["send", RECIPIENT, "--text", ""], "Text.body"),
        (["send", RECIPIENT, "--text", SECRETS[2], "--language", "fr"], "are for templates"),
        (["send", RECIPIENT, "--template", "x"], "language is missing"),
        (["send", RECIPIENT, RECIPIENT, "--text", SECRETS[2]], "unknown argument '...'"),
        (["send", RECIPIENT, f"--tex={SECRETS[2]}", "--text", "a"], "unknown argument '--tex=...'"),
        (["send", RECIPIENT, f"--named={SECRETS[2]}", "--text", "a"], "ignored explicit argument '...'"),
        (["send", RECIPIENT, "--text", "a", "--token", SECRETS[0]], "a token is no argument"),
        (["send", RECIPIENT, "--text", "a", f"--access-token={SECRETS[0]}"], "a token is no argument"),
        (["send", RECIPIENT, "--text", "a", "--environment", "staging"], "no such environment"),
        (["send", RECIPIENT, "--request", "-"], "recipient does not go with --request"),
        (["send", "--request", "/nonexistent/message.json"], "cannot be read"),
        (["send", RECIPIENT, "--text", "a", "--config", "/nonexistent/a.toml"], "the configuration: "),
        (["status", "--phone-number-id", SECRETS[0]], "phone_number_id must be a string of digits"),
        (["status", "--token-file", "/nonexistent/token"], "the token's file cannot be read"),
        (["templates", "no_such_template"], "has no template of that name"),
    ],
)
def test_what_is_wrong_is_told_in_a_line_without_what_it_is_about(
    simulator: SimulatorThread,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    told: str,
) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert told in err
    assert out == ""
    assert len(err.splitlines()) <= 2
    assert not any(secret in err for secret in SECRETS)
    assert not simulator.book.entries


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        '{"messaging_product": "whatsapp", "to": "+1234567","text": {"body": "a"}, "recipient_identity_key_hash": "x"}',
        '{"to": "+33612345678", "type": "my private words"}',
        "[1]",
    ],
)
def test_a_request_that_is_none_is_refused_without_being_shown(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str
) -> None:
    file = tmp_path / "message.json"
    file.write_text(content)
    assert main(["send", "--request", str(file)]) == 2
    file.write_bytes(b"\xff")
    assert main(["send", "--request", str(file)]) == 2
    assert not any(secret in capsys.readouterr().err for secret in SECRETS)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[policies.other.retry]\n", "no stack 'whatsapp_api'"),
        ("[policies.whatsapp_api.retry]\n[policies.whatsapp_api.bulkhead]\nmax_concurrent = 1\n", "a bulkhead"),
        ("[policies.whatsapp_api.retry]\nmax_attempts = 0\n", "must be a whole number, 1 or more"),
    ],
)
def test_a_configuration_that_does_not_fit_is_refused(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path, content: str, told: str
) -> None:
    file = tmp_path / "resilience.toml"
    file.write_text(content)
    assert main(["send", RECIPIENT, "--text", "hello", "--config", str(file)]) == 2
    assert told in capsys.readouterr().err


# --- token and ids ---------------------------------------------------------------------------------------------------


def test_the_token_comes_from_a_file_or_the_environment(
    simulator: SimulatorThread,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{simulator.simulator.token}\n")
    monkeypatch.setenv("WHATSAPP_TOKEN", SECRETS[0])
    assert main(["status"]) == 1
    assert "the token is expired, withdrawn" in capsys.readouterr().err
    assert main(["status", "--token-file", str(file)]) == 0
    monkeypatch.delenv("WHATSAPP_TOKEN")
    monkeypatch.setenv("WHATSAPP_TOKEN_FILE", str(file))
    assert main(["status"]) == 0
    monkeypatch.delenv("WHATSAPP_TOKEN_FILE")
    assert main(["status"]) == 2
    assert "there is no token" in capsys.readouterr().err
    file.write_text(f"TOKEN={SECRETS[0]} with blanks")
    assert main(["status", "--token-file", str(file)]) == 2
    assert SECRETS[0] not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "command"), [("WHATSAPP_PHONE_NUMBER_ID", "status"), ("WHATSAPP_WABA_ID", "templates")]
)
def test_an_id_that_is_missing_is_named(
    simulator: SimulatorThread,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: str,
) -> None:
    monkeypatch.delenv(name)
    assert main([command]) == 2
    assert name in capsys.readouterr().err


# --- templates and status --------------------------------------------------------------------------------------------


def documents(capsys: pytest.CaptureFixture[str]) -> Any:
    return json.loads(capsys.readouterr().out)


def test_the_list_of_templates_tells_where_it_comes_from(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path, impatient: tuple[str, str]
) -> None:
    kept = tmp_path / "templates.json"
    words = ["templates", "--file", str(kept), *impatient]
    assert main(words) == 0
    assert capsys.readouterr().out.endswith("6 templates, from the API\n")
    simulator.stop_listening()
    assert main([*words, "--json"]) == 0
    told = documents(capsys)
    assert (told["source"], len(told["templates"])) == ("cache", 6)
    assert told["age"] >= 0
    assert main(words) == 0
    assert "6 templates, kept from an earlier time, " in capsys.readouterr().out
    assert main(["templates", *impatient]) == 1
    out, err = capsys.readouterr()
    assert "built in" in out
    assert err.splitlines()[-1].startswith("resilience-whatsapp: the API did not give the list: Client")


def test_one_template_is_told_in_each_language_with_its_health(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["templates", "order_confirmation"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert main(["templates", "paused_offer"]) == 1
    assert "fr: MESSAGE_TEMPLATE is BLOCKED (code 132015)" in capsys.readouterr().out
    assert main(["templates", "paused_offer", "--json"]) == 1
    [told] = documents(capsys)
    assert (told["status"], told["health"]["can_send_message"]) == ("PAUSED", "BLOCKED")
    assert told["health"]["entities"][0]["errors"] == [132015]


def test_the_status_of_a_number_that_can_send_and_of_one_that_cannot(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = simulator.simulator.own_number
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "quality rating   GREEN" in out
    assert own not in out
    simulator.simulator.account.block = Block(131031)
    assert main(["status"]) == 1
    assert "WABA is BLOCKED (code 131031)" in capsys.readouterr().out
    monkeypatch.delenv("WHATSAPP_WABA_ID")
    assert main(["status"]) == 1
    assert "account" not in capsys.readouterr().out
    assert main(["status", "--json"]) == 1
    told = documents(capsys)
    assert told["account"] is None
    assert told["number"]["health"]["can_send_message"] == "BLOCKED"
    assert own not in json.dumps(told)


def test_a_number_of_which_the_api_tells_next_to_nothing(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("json", "phone_number", status=200, body={"id": "1"}, times=2))
    assert main(["status"]) == 0
    assert "quality rating   -" in capsys.readouterr().out
    assert main(["status", "--json"]) == 0
    assert documents(capsys)["number"]["display_phone_number"] is None


LISTINGS: list[tuple[Any, Callable[[str], bool]]] = [
    ({"data": 5}, lambda err: "a listing without data" in err),
    ({"data": [5, {"name": "x"}]}, lambda err: "no template of that name" in err),
    (
        {"data": [], "paging": {"next": "https://x", "cursors": {"after": "MQ"}}},
        lambda err: "a listing that does not end" in err,
    ),
]


@pytest.mark.parametrize(("body", "told"), LISTINGS)
def test_a_listing_that_is_none_is_told(
    simulator: SimulatorThread,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    body: Any,
    told: Callable[[str], bool],
) -> None:
    monkeypatch.setattr("resilience_whatsapp.cli._templates._MAX_PAGES", 3)
    simulator.script(Fault("json", "message_templates", status=200, body=body, times=None))
    assert main(["templates", "hello_world"]) in (1, 2)
    assert told(capsys.readouterr().err)


def test_a_template_without_an_id_has_no_health(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    row = {"name": "hello_world", "language": "fr", "status": "approved"}
    simulator.script(Fault("json", "message_templates", status=200, body={"data": [row]}))
    assert main(["templates", "hello_world", "--json"]) == 0
    [told] = documents(capsys)
    assert (told["id"], told["health"]) == (None, None)


def test_the_status_tells_how_much_the_outbox_holds(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "outbox.db"
    asyncio.run(leave_behind(file, simulator.simulator.phone_number_id))
    assert main(["status", "--outbox", str(file)]) == 0
    assert capsys.readouterr().out.endswith("outbox\n  1 queued, 1 unknown, 1 dead\n")
    assert main(["status", "--outbox", str(file), "--json"]) == 0
    assert documents(capsys)["outbox"]["queued"] == 1
    assert main(["status", "--json"]) == 0
    assert documents(capsys)["outbox"] is None
    assert main(["status", "--outbox", str(tmp_path / "none.db")]) == 2


# --- the page --------------------------------------------------------------------------------------------------------

PAGE = ROOT / "docs" / "whatsapp" / "command-line.md"
VARIES = [
    (r"http://127\.0\.0\.1:\d+", "http://127.0.0.1:8080"),
    (r"packages: .*", "packages: resilience-whatsapp 0.1.0, Python 3.11.7"),
    (r"attempt, [\d.]+s", "attempt, 0.3s"),
    (r"  \d+\.\d+s ", "  0.3s "),
]


def alike(text: str) -> str:
    """Without what is different each time."""
    for pattern, replacement in VARIES:
        text = re.sub(pattern, replacement, text)
    return text.strip()


async def leave_behind(path: Path, lane: str) -> None:
    """The outbox of the page."""
    store, now = SQLiteStore(path), time.time()
    made = {"lane": lane, "created_at": now, "not_after": now + 3600, "kept": True}
    template = {"kind": "template", "template": "order_confirmation", "language": "fr"}
    error, wait = "GraphAuthError(190)", "auth: somebody must repair it"
    names: list[dict[str, Any]] = [
        {"recipient": "+33612345680", "state": "unknown", "unknown": 1, "attempts": 1, "reason": "no echo"},
        {"recipient": "+33612345679", "state": "dead", "reason": "expired"},
        {"state": "queued", "attempts": 1, "error": error, "reason": wait, "due": now, **template},
    ]
    names[0]["error"] = "ClientOSError"
    for number, row in enumerate(names, 1):
        row_id, state = f"9f0c2a4477d1b6503e8a95c1d2f4{number:04}", MessageStatus(row["state"])
        text = {"messaging_product": "whatsapp", "to": RECIPIENT, "type": "text", "text": {"body": "hello"}}
        changes = {**made, "id": row_id, "payload": text, "due": None, "changed_at": now + number / 1000, **row}
        await store.add(a_row(**{**changes, "state": state}))
    await store.aclose()


def test_the_page_shows_what_the_command_line_says(
    simulator: SimulatorThread, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("WHATSAPP_API_VERSION", "v26.0")
    monkeypatch.chdir(tmp_path)
    outbox = tmp_path / "outbox.db"
    code = 0
    for block in re.findall(r"```console\n(.*?)```", PAGE.read_text(), re.DOTALL):
        parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
        for command, shown in zip(parts[::2], parts[1::2], strict=True):
            if command == "echo $?":
                assert int(shown) == code
                continue
            if "--outbox" in command and not outbox.exists():
                asyncio.run(leave_behind(outbox, simulator.simulator.phone_number_id))
            code = main(shlex.split(command)[1:])
            out, err = capsys.readouterr()
            told = out if "drain" in command else out + err  # which tells how far it is, if that takes long
            assert alike(shown) == alike(told), command


def test_the_page_names_every_command() -> None:
    table = PAGE.read_text().partition("## Commands")[2].partition("###")[0]
    assert re.findall(r"^\| `([a-z]+)", table, re.MULTILINE) == list(COMMANDS)
