"""`resilience-whatsapp doctor`: what it finds wrong, what it says helps, and how it ends."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from attrs import evolve

from resilience_whatsapp.api_versions import API_VERSIONS, state_of_version
from resilience_whatsapp.cli import _checks as checks
from resilience_whatsapp.cli import main
from resilience_whatsapp.cli._templates import TemplateState
from resilience_whatsapp.simulator import Fault, SimulatorThread
from resilience_whatsapp.simulator.state.world import Block
from resilience_whatsapp.simulator.templates.definitions import SimTemplate
from resilience_whatsapp.status import NumberStatus, health_of
from tests.whatsapp.test_command_line import variables

SOUND = (SimTemplate("hello_world", "en_US"), SimTemplate("later", "fr", status="PENDING"))
HEALTH = {"can_send_message": "AVAILABLE", "entities": []}
NUMBER: dict[str, Any] = {"id": "106540352242922", "status": "CONNECTED", "health_status": HEALTH}


@pytest.fixture
def simulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimulatorThread]:
    monkeypatch.setenv("WHATSAPP_API_VERSION", "v26.0")  # the end of others comes, some day
    with SimulatorThread(templates=SOUND) as started:
        for name, value in variables(started).items():
            monkeypatch.setenv(name, value)
        yield started


def found(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, dict[str, dict[str, str]]]:
    """The exit code, and the checks by their names."""
    code = main(["doctor", "--json", *words])
    out, err = capsys.readouterr()
    assert err == ""
    return code, {check["name"]: check for check in json.loads(out)["checks"]}


def wrong(told: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: check["verdict"] for name, check in told.items() if check["verdict"] != "ok"}


def test_nothing_is_wrong_with_a_sound_account(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = found(capsys, "--template", "hello_world")
    assert (code, wrong(told)) == (0, {})
    assert told["template hello_world en_US"]["text"] == "APPROVED, health AVAILABLE"
    assert told["templates"]["text"] == "1 APPROVED, 1 PENDING"
    assert main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[0].startswith(f"{simulator.base_url} v26.0, number 106540352242922")
    assert simulator.simulator.token not in out
    assert simulator.simulator.own_number not in out
    assert not simulator.book.entries


@pytest.mark.usefixtures("simulator")
def test_the_clock_of_this_host_is_compared_with_the_answers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("resilience_whatsapp.cli._doctor._now", lambda: datetime(2020, 1, 1, tzinfo=UTC))
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"clock": "warning"})
    assert "NTP" in told["clock"]["fix"]


def test_a_token_that_has_expired(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    api = simulator.simulator
    api.world.tokens[api.token].expires_at = 0.0
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"token": "error"})
    assert told["token"]["text"].startswith("it has expired; ")
    assert told["token"]["text"].endswith("it is from the environment's WHATSAPP_TOKEN")
    assert "webhooks" not in told  # nothing else would be answered


def test_a_token_that_is_wrong_or_open_to_others(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("EAAGsecrettoken")
    file.chmod(0o644)
    code, told = found(capsys, "--token-file", str(file))
    assert (code, wrong(told)) == (1, {"token file": "error", "token": "error"})
    assert "expired" not in told["token"]["text"]
    assert "EAAGsecrettoken" not in json.dumps(told)
    file.write_text(simulator.simulator.token)
    file.chmod(0o600)
    assert found(capsys, "--token-file", str(file))[0] == 0


def test_a_version_that_has_ended(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    code, told = found(capsys, "--api-version", "v19.0")
    assert code == 1
    assert told["version"]["text"] == "v19.0 has ended"
    assert "v26.0 is current" in told["version"]["fix"]


def test_an_account_that_is_blocked(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    simulator.simulator.account.block = Block(131031)
    code, told = found(capsys, "--template", "hello_world")
    assert code == 1
    assert wrong(told) == dict.fromkeys(("number health", "account health", "template hello_world en_US"), "error")
    assert "WABA is BLOCKED (code 131031)" in told["account health"]["text"]
    assert "reviewed" in told["account health"]["fix"]


def test_a_number_that_is_not_registered(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    simulator.simulator.number.standing.registered = False
    simulator.simulator.number.quality = "RED"
    _, told = found(capsys)
    assert wrong(told) == dict.fromkeys(("number", "number health", "quality"), "error")
    assert "register" in told["number"]["fix"]


def test_a_template_that_is_paused_and_one_that_does_not_exist(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.simulator.templates = [evolve(SOUND[0], status="PAUSED"), SimTemplate("other", "fr")]
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"template hello_world en_US": "warning"})
    code, told = found(capsys, "--template", "hello_world", "--template", "none")
    assert wrong(told) == {"template hello_world en_US": "error", "template none": "error"}
    assert main(["doctor"]) == 1
    assert "warning  template hello_world en_US: PAUSED" in capsys.readouterr().out


def test_ids_that_do_not_exist(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, told = found(capsys, "--phone-number-id", "5", "--waba-id", "6")
    assert (code, wrong(told)) == (1, {"number": "error", "account": "error"})
    assert "no such object" in told["number"]["text"]
    assert "webhooks" in told  # the rest is looked at all the same
    monkeypatch.delenv("WHATSAPP_WABA_ID")
    assert wrong(found(capsys)[1]) == {"account": "warning"}


def test_answers_that_are_none_and_limits_that_are_reached(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("html", "phone_number"), Fault("error", "message_templates", code=80007))
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"number": "error", "account": "error"})
    usage = json.dumps({"5": [{"type": "whatsapp", "call_count": 99, "total_cputime": 1, "total_time": 1}]})
    headers = {"X-Business-Use-Case-Usage": usage, "facebook-api-version": "v21.0"}
    simulator.script(Fault("json", "phone_number", status=200, body=NUMBER, headers=headers))
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"version": "warning", "usage": "warning"})


def test_an_api_that_goes_away(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    simulator.script(Fault("reset_before_read", "message_templates", times=None))
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"account": "error"})
    simulator.stop_listening()
    code, told = found(capsys)
    assert (code, wrong(told)) == (3, {"api": "error"})
    assert told["version"]["verdict"] == "ok"


def test_permissions_and_webhooks_are_looked_at(simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]) -> None:
    _, told = found(capsys)
    assert told["permissions"]["text"] == "whatsapp_business_messaging, whatsapp_business_management"
    assert told["webhooks"]["text"] == "1 app subscribed to the account"
    simulator.do(lambda api: api.change.token(permissions=["whatsapp_business_management"]))
    simulator.do(lambda api: api.account.apps.clear())
    code, told = found(capsys)
    assert (code, wrong(told)) == (1, {"permissions": "error", "webhooks": "warning"})
    assert told["permissions"]["text"] == "missing: whatsapp_business_messaging: without it nothing can be sent"


def test_what_the_api_need_not_tell_is_no_finding(
    simulator: SimulatorThread, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.script(Fault("error", "permissions", code=100), Fault("html", "subscribed_apps"))
    code, told = found(capsys)
    assert (code, wrong(told)) == (0, {})
    assert told["permissions"]["text"].startswith("not told by the API")
    assert told["webhooks"]["text"] == "not told by the API"


# --- single checks ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "today", "state"),
    [
        ("v1.0", date(2026, 11, 27), "ended"),
        ("v19.0", date(2026, 11, 27), "ended"),
        ("v20.0", date(2026, 9, 23), "ends_soon"),
        ("v20.0", date(2026, 9, 24), "ended"),
        ("v21.0", date(2026, 11, 27), "ends_soon"),
        ("v25.0", date(2026, 11, 27), "supported"),
        ("v26.0", date(2030, 1, 1), "supported"),
        ("v27.0", date(2030, 1, 1), "not_known"),
        ("v100.0", date(2030, 1, 1), "not_known"),
    ],
)
def test_the_state_of_a_version(version: str, today: date, state: str) -> None:
    assert state_of_version(version, today) == (state, API_VERSIONS.get(version))
    verdict = {"ended": "error", "ends_soon": "warning"}.get(state, "ok")
    assert checks.version_check(version, version, today).verdict == verdict


def test_another_version_that_answers_is_told() -> None:
    check = checks.version_check("v25.0", "v23.0", date(2026, 11, 27))
    assert (check.verdict, check.text) == ("warning", "v25.0 is asked for, and v23.0 answers")


@pytest.mark.parametrize(("off", "verdict"), [(0, "ok"), (29, "ok"), (31, "warning"), (-31, "warning")])
def test_the_clock(off: int, verdict: str) -> None:
    now = datetime(2026, 11, 27, 12, 0, tzinfo=UTC)
    header = format_datetime(datetime.fromtimestamp(now.timestamp() + off, UTC), usegmt=True)
    assert checks.clock_check(header, now).verdict == verdict
    assert checks.clock_check(header.replace("GMT", "-0000"), now).verdict == verdict


@pytest.mark.parametrize(
    "header", [None, "", "yesterday", "Fri, 99 Nov 2026 12:00:00 GMT", "Fri, 27 Nov 2026 12:00:00 +99999999999999"]
)
def test_a_date_that_is_none_is_no_hint(header: str | None) -> None:
    assert "not told" in checks.clock_check(header, datetime(2026, 11, 27, tzinfo=UTC)).text


def test_permissions() -> None:
    rows = [{"permission": name, "status": "granted"} for name in checks.PERMISSIONS]
    assert checks.permission_check({"data": rows}).verdict == "ok"
    declined = checks.permission_check({"data": [rows[1], {**rows[0], "status": "declined"}, 5]})
    assert declined.verdict == "error"
    assert "without it nothing can be sent" in declined.text
    silent: list[Any] = [None, {}, {"data": []}, {"data": 5}, {"data": [{"permission": [], "status": []}]}]
    assert [checks.permission_check(each).verdict for each in silent] == ["ok"] * 5


@pytest.mark.parametrize(
    ("changes", "name", "verdict"),
    [
        ({}, "number", "ok"),
        ({"status": None}, "number", "ok"),
        ({"status": "FLAGGED"}, "number", "warning"),
        ({"status": "BANNED"}, "number", "error"),
        ({"name_status": "DECLINED"}, "display name", "warning"),
        ({"code_verification_status": "NOT_VERIFIED"}, "verification", "warning"),
        ({"quality_rating": None}, "quality", "ok"),
        ({"quality_rating": "YELLOW"}, "quality", "warning"),
        ({"quality_rating": "RED"}, "quality", "error"),
        ({"throughput": "HIGH"}, "throughput", "ok"),
        ({"throughput": None}, "throughput", "ok"),
        ({"throughput": "NOT_APPLICABLE"}, "throughput", "warning"),
        ({"messaging_limit": None}, "messaging limit", "ok"),
        ({"health": None}, "number health", "ok"),
    ],
)
def test_a_number(changes: dict[str, Any], name: str, verdict: str) -> None:
    usual = NumberStatus(
        id="1",
        display_phone_number="+1 555",
        verified_name="X",
        status="CONNECTED",
        quality_rating="GREEN",
        throughput="STANDARD",
        messaging_limit="TIER_250",
        name_status="APPROVED",
        code_verification_status="VERIFIED",
        health=health_of({"health_status": HEALTH}),
    )
    by_name = {check.name: check for check in checks.number_checks(evolve(usual, **changes))}
    assert by_name[name].verdict == verdict
    assert (by_name[name].fix == "") == (verdict == "ok")


def test_health_that_is_limited_says_why() -> None:
    entity = {"entity_type": "WABA", "can_send_message": "LIMITED", "errors": [{"error_code": 131042}]}
    health = health_of({"health_status": {"can_send_message": "LIMITED", "entities": [entity, 5]}})
    check = checks.health_check("account health", health)
    assert (check.verdict, check.text) == ("warning", "LIMITED; WABA is LIMITED (code 131042)")
    assert "the account cannot pay" in check.fix
    bare = checks.health_check("account health", health_of({"health_status": {"can_send_message": "BLOCKED"}}))
    assert (bare.verdict, bare.fix) == ("error", "see WhatsApp Manager")
    unknown = {**entity, "errors": [{"error_code": 5555555}], "can_send_message": "BLOCKED"}
    told = checks.health_check(
        "x", health_of({"health_status": {"can_send_message": "BLOCKED", "entities": [unknown]}})
    )
    assert "code 5555555" in told.text
    silent = {**entity, "errors": []}
    told = checks.health_check("x", health_of({"health_status": {"can_send_message": "LIMITED", "entities": [silent]}}))
    assert "no reason told" in told.text


def test_an_account_without_templates_is_told() -> None:
    [check] = checks.template_checks([])
    assert (check.verdict, check.text) == ("warning", "none")
    [pending] = checks.wanted_check("x", [TemplateState("1", "x", "fr", "PENDING", None, None)])
    assert (pending.verdict, pending.text) == ("error", "PENDING")


@pytest.mark.parametrize(
    ("headers", "verdict"),
    [
        ({}, "ok"),
        ({"X-App-Usage": '{"call_count": 28, "total_cputime": 25.5, "total_time": 5}'}, "ok"),
        ({"x-app-usage": '{"call_count": 75}'}, "warning"),
        ({"x-app-usage": '{"call_count": 1, "total_time": 100}'}, "error"),
        ({"X-Business-Use-Case-Usage": '{"1": [{"call_count": 80, "type": "x"}, 5]}'}, "warning"),
        ({"X-Business-Use-Case-Usage": "no JSON"}, "ok"),
        ({"X-App-Usage": '{"call_count": true}'}, "ok"),
        ({"X-App-Usage": '{"call_count": NaN, "total_time": 100}'}, "error"),
    ],
)
def test_quotas(headers: dict[str, str], verdict: str) -> None:
    assert checks.usage_check([headers, {}]).verdict == verdict


def test_webhooks() -> None:
    silent: list[Any] = [None, {}, {"data": 5}]
    assert [checks.webhook_check(each).verdict for each in silent] == ["ok"] * 3
    assert checks.webhook_check({"data": []}).verdict == "warning"
    assert checks.webhook_check({"data": [{}]}).text == "1 app subscribed to the account"
    assert checks.webhook_check({"data": [{}, {}]}).text == "2 apps subscribed to the account"
