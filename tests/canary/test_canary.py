"""A token, a secret, a phone number and a text are planted wherever a user's data can be, and must be found nowhere.

What is fair, and what is not looked at:

* The user's own exceptions carry what the user wrote into them. They are handed on unchanged (and stand as the cause of
  ours), so the last line of *their* traceback shows it. What we say of them must not.
* Frames that are not ours, and in ours the caller's arguments, results and errors on their way through. Everything else
  in our frames (policies, sites, entries, clients, the token in a request's headers) is looked at as its repr, which is
  what a debugger or an error collector shows.
* `MessageRecord.recipient` is what the WhatsApp service is asked for: as an attribute, and where somebody pickles a
  record, or an error with the record on it.
* Events hold the user's exception in `.error` for listeners in the same process: their repr is looked at, and their
  pickle where they hold none.
* Names of policies, operations, actors and notes are no user data.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests._redis import RedisServer
from tests.canary.secrets import APP_SECRET, PHONE, SECRETS, TEXT, TOKEN, leaks

ROOT = Path(__file__).parents[2]


def test_what_users_entrust_us_with_is_found_nowhere(redis_server: RedisServer, tmp_path: Path) -> None:
    kept = tmp_path / "evidence.json"
    environment = os.environ | {"REDIS_URL": redis_server.url, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.canary.program", str(kept)],
        check=False,  # what it wrote to stderr is to be seen
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    evidence = [tuple(each) for each in json.loads(kept.read_text())]
    evidence += [("stdout", done.stdout), ("stderr", done.stderr)]
    channels = {where.partition(" ")[0] for where, _ in evidence}
    expected = {"log", "span", "metric", "monitor", "repr", "describe", "snapshot", "explain", "pickle", "traceback"}
    assert channels >= (expected | {"str", "frame", "event", "warning"}) - {"span"}
    assert len([where for where, _ in evidence if where.startswith("log ")]) > 60
    found = leaks(evidence)  # type: ignore[arg-type]
    assert not found, f"{len(found)} leaks:\n" + "\n".join(found[:40])


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize(
    "disguise",
    [
        lambda secret: secret,
        lambda secret: f"...{secret}...",
        quote,
        lambda secret: quote(secret, safe=""),
        lambda secret: base64.b64encode(secret.encode()).decode(),
        lambda secret: base64.b64encode(b"a" + secret.encode() + b"b").decode(),
        lambda secret: base64.b64encode(b"ab" + secret.encode() + b"c").decode(),
        lambda secret: base64.urlsafe_b64encode(b"abc:" + secret.encode() + b"?").decode(),
        lambda secret: repr({"key": [secret]}),
        lambda secret: json.dumps({"body": f"a {secret} b"}),
        lambda secret: secret.encode().hex(),
    ],
)
def test_a_secret_that_is_planted_is_found(name: str, disguise: object) -> None:
    planted = disguise(SECRETS[name])  # type: ignore[operator]
    found = leaks([("log a line", "nothing"), ("log another", f"before {planted} after")])
    assert found
    assert all(each.startswith(name) or "phone number" in each for each in found)


@pytest.mark.parametrize("shown", [PHONE[1:], f"0{PHONE[3:]}", f"******{PHONE[-6:]}", f"to={PHONE[-6:]},"])
def test_the_end_of_the_number_is_found(shown: str) -> None:
    assert leaks([("log", shown)])


@pytest.mark.parametrize(
    "harmless", ["+33******32", f"0.12{PHONE[-6:]}", f"{PHONE[-6:]}1", TOKEN[:9], TEXT[:5], APP_SECRET[:6]]
)
def test_what_is_no_secret_is_no_leak(harmless: str) -> None:
    assert not leaks([("log", harmless)])
