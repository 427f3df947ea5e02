"""docs/protocol.md says what the code does: its tables against the code, its examples run."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.programs import require_program
from support.scripted import PATIENCE, Daemon

from cms_oauth import wire

DOCUMENT = (Path(__file__).parent.parent / "docs/protocol.md").read_text()
USER = "user@domain.com"
SHELL_EXAMPLES = re.findall(r"```sh\n(.*?)```", DOCUMENT, re.DOTALL)


def request_of(example: str) -> wire.TokenRequest:
    """Return the request that an example's format string makes."""
    line = re.search(r"printf '((?:SMTP|IMAP)[^']*)'", example)
    assert line
    digest = hashlib.sha256(b"OLD").hexdigest()[:16]
    return wire.parse_request(line[1].replace("\\n", "\n").replace("%s", digest).encode())


@pytest.mark.parametrize("example", SHELL_EXAMPLES)
def test_the_shell_examples_fetch_a_token(tmp_path: Path, example: str) -> None:
    """With the real nc and socat."""
    for program, package in (("nc", "netcat-openbsd"), ("socat", "socat")):
        if program in example:
            require_program(program, package)
    request = request_of(example)
    reply = wire.render(request.form, USER, "T") if request.form != "json" else b'{"version": 1}\n'
    with Daemon(tmp_path / "cms.sock", reply) as daemon:
        done = subprocess.run(
            ["sh", "-c", example],
            env={**os.environ, "CMS_SOCK": daemon.path, "refused_token": "OLD"},
            capture_output=True,
            check=True,
            timeout=PATIENCE,
        )

    assert reply == done.stdout
    assert request == wire.parse_request(daemon.requests[0])


def test_the_python_example_fetches_a_token(tmp_path: Path) -> None:
    """It sees that half a reply is no reply, and says why there is none."""
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)
    whole = wire.render("xoauth2", USER, "T")
    with Daemon(tmp_path / "cms.sock", whole, whole[:-1], wire.refusal_line("locked", "no key")) as daemon:
        done, half, refused = (
            subprocess.run(
                [sys.executable, "-c", example],
                env={"CMS_SOCK": daemon.path},
                capture_output=True,
                text=True,
                check=False,
                timeout=PATIENCE,
            )
            for _ in range(3)
        )

    assert (0, "T\n") == (done.returncode, done.stdout)
    assert (1, "") == (half.returncode, half.stdout)
    assert (1, "", "!locked 0 no key\t\n\n") == (refused.returncode, refused.stdout, refused.stderr)
    assert wire.parse_request(daemon.requests[0]).why


def test_every_code_is_listed_with_its_exit_status() -> None:
    """And no other."""
    listed = re.findall(r"^\| `([a-z-]+)` \| (\d+) \|", DOCUMENT, re.MULTILINE)

    assert wire.EXIT_CODES == {code: int(status) for code, status in listed}


def test_every_form_is_in_the_grammar() -> None:
    """And no other."""
    grammar = re.search(r"^form .*?(?=^min )", DOCUMENT, re.DOTALL | re.MULTILINE)

    assert grammar
    assert list(wire.FORMS) == re.findall(r'"([a-z0-9-]+)"', grammar[0])


def test_a_refusals_line_is_that_of_the_document() -> None:
    """Its parts in the order of its rule, each of which the document defines."""
    rule = re.search(r"^refusal +=(.*)$", DOCUMENT, re.MULTILINE)
    assert rule
    parts = {"SP": " ", "HTAB": "\t", "LF": "\n", '"!"': "!"}
    named = {"CODE": "busy", "RETRY_AFTER": "5", "MESSAGE": "too many", "HINT": "wait"}
    line = "".join({**parts, **named}[each] for each in rule[1].split())

    assert wire.refusal_line("busy", "too many", "wait", 5.0).decode() == line
    assert all(re.search(rf"^{name} +=", DOCUMENT, re.MULTILINE) for name in named)


def test_every_option_is_in_the_grammar_and_explained() -> None:
    """And a request with all of them is a good one."""
    listed = re.search(r"^option +=([^;]*)", DOCUMENT, re.MULTILINE)
    assert listed
    values = {"form": "json", "min": "min=60", "rejected": f"rejected={'0' * 16}", "why": "why"}
    options = [each.strip() for each in listed[1].split("/")]

    assert wire.parse_request(f"SMTP,{','.join(values[each] for each in options)}".encode()).why
    assert all(f"\n| `{values[each].partition('=')[0]}" in DOCUMENT for each in set(options) - {"form"})


def test_the_json_examples_have_the_members_of_real_replies() -> None:
    """In the order in which they come."""
    granted, refused = re.findall(r"```json\n(.*?)```", DOCUMENT, re.DOTALL)
    real = wire.json_reply(USER, "SMTP", "T", expires_in=1, expires_at=1)
    error = wire.json_refusal("denied", "message")["error"]

    assert list(real) == list(json.loads(granted))
    assert isinstance(error, dict)
    assert list(error) == list(json.loads(refused)["error"])


@pytest.mark.parametrize(
    "limit",
    [
        f"{wire.MAX_REQUEST:,} bytes, within {wire.REQUEST_SECONDS:g} s",
        f"{wire.WAIT_SECONDS:g} s; everything else",
        f"together | {wire.CLIENT_SECONDS:g} s",
        f"{wire.MAX_REPLY // 1024} KiB",
    ],
)
def test_the_limits_are_those_of_the_code(limit: str) -> None:
    """A number that changes changes in both places."""
    assert limit in DOCUMENT
