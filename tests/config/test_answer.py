"""What a configuration's process answers, as bytes and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.configuration import Loader

from cms.config import answer
from cms.config.answer import Answer, pack
from cms.config.model import Config, ConfigError
from cms.core.json_lines import Garbled

FULL = """\
me = Office365_Account("Me@example.com", client_id="0a1b2c3d-1111-2222-3333-444455556666", tenant="example.com",
                       client_secret=Command(["pass", "show", "me"]), refresh_before=600, redirect_uri="http://localhost")
shared = Office365_Account("shared@example.com", scopes=["https://graph.microsoft.com/Mail.Send"], prompt="login")
unserved = Office365_Account("unserved@example.com", smtp_host="smtp.example.com", preflight=False)
Office365("INBOX", me)
graph = Protocol("GRAPH", ["https://graph.microsoft.com/Mail.Send"])
CredentialServer("/run/one.sock", [me, shared], protocols=["SMTP", graph], users=["alice"], groups=[], group="mail")
CredentialServer("/run/two.sock", [shared])
PostfixTable("/run/three.sock", [me, shared], default=shared)
TokenFile("/run/user/1000/token", shared, "SMTP", newline=True)
Vault(key=File("key"))
Proxy("http://me@proxy.example.com:3128", ["localhost"], password=Credential("proxy"))
SignInPage()
Notify(["/usr/bin/true", "--x"], events=["locked"], remind=0, grace=30)
Notify(desktop=False)
"""


def read(*lines: bytes) -> Config | ConfigError | None:
    incoming = Answer()
    incoming.feed(b"".join(lines))
    return incoming.said


def test_a_configuration_comes_back(load_text: Loader) -> None:
    """All of it, however it is cut on the way."""
    config = load_text(FULL)
    sent = b"".join(pack(config))
    bytewise = Answer()
    for number in range(len(sent)):
        assert bytewise.said is None
        bytewise.feed(sent[number : number + 1])

    assert config == bytewise.said == read(sent)
    assert isinstance(bytewise.said, Config)
    assert [each.line for each in config.hooks] == [each.line for each in bytewise.said.hooks]


def test_an_account_is_sent_once(load_text: Loader) -> None:
    """Sockets and files hold the accounts of the configuration themselves, as they do before the way."""
    lines = list(pack(load_text(FULL)))
    config = read(*lines)
    assert isinstance(config, Config)
    me, shared = config.accounts

    held = [each for spec in config.sockets for each in spec.accounts] + [each.account for each in config.files]
    assert [me, shared, shared, me, shared, shared] == held
    assert {id(me), id(shared)} == {id(each) for each in (*held, config.sockets[2].default)}
    assert [1, 1] == [
        b"".join(lines).count(b'"user": "%s"' % each) for each in (b"Me@example.com", b"shared@example.com")
    ]


def test_an_error_comes_back() -> None:
    """With its file, line and hint, and without one or the other."""
    for error in (ConfigError("/x/\udcff.cfg", 3, "no use", "Try this"), ConfigError("/x/cms.cfg", None, "no use")):
        found = read(*pack(error))

        assert isinstance(found, ConfigError)
        assert error.args == found.args


def _lies() -> list[dict[str, Any]]:
    account = {"is": "Account", "user": "secret-"}
    return [{}, {"is": "Config"}, {"is": "_Fault", "file": 1, "line": 1, "message": "", "hint": ""}, account]


@pytest.mark.parametrize("line", [b"secret-", b"[]", *(json.dumps(each).encode() for each in _lies())])
def test_what_is_no_answer_is_not_quoted(line: bytes) -> None:
    """A file that writes where it should not gets one error."""
    with pytest.raises(Garbled) as caught:
        read(line + b"\n")

    assert "secret-" not in str(caught.value)


@pytest.mark.parametrize("number", [-1, 2, True, "0", None])
def test_only_accounts_that_were_sent_are_meant(load_text: Loader, number: object) -> None:
    """A number of none is no answer."""
    *accounts, last = pack(load_text(FULL))
    body = json.loads(last)
    body["sockets"][0]["accounts"] = [number]

    with pytest.raises(Garbled):
        read(*accounts, json.dumps(body).encode() + b"\n")


def test_an_answer_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """In all, and not only in each line."""
    monkeypatch.setattr(answer, "MAX_ANSWER", 1000)
    incoming = Answer()
    for _ in range(10):
        incoming.feed(b"x" * 100)

    with pytest.raises(Garbled, match="too long"):
        incoming.feed(b"x")
