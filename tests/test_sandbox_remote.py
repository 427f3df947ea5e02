"""The sandbox as a process of its own, told what to do over loopback."""

from __future__ import annotations

import json
import signal
import smtplib
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from cms.sandbox.directory import CLIENT_ID, MAIL_SCOPES
from cms.sandbox.entra import Entra
from cms.sandbox.faults import Fault
from cms.sandbox.remote import Remote, RemoteError, attach
from cms_oauth import sasl

A = "a@example.test"
ARGV = [sys.executable, "-m", "cms.sandbox", A]


@pytest.fixture(scope="module")
def where() -> Iterator[dict[str, str]]:
    with subprocess.Popen(ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
        process.terminate()


@pytest.mark.parametrize(("word", "status"), [("--help", 0), ("--fast", 64)])
def test_what_is_no_user_starts_nothing(word: str, status: int) -> None:
    """Somebody looks for how it is used."""
    ran = subprocess.run([*ARGV[:3], word], capture_output=True, text=True, check=False, timeout=60)

    assert status == ran.returncode
    assert "usage: python -m cms.sandbox [USER ...]\n" == ran.stdout + ran.stderr


_WITHOUT = "import sys; sys.modules['trustme'] = None; from cms.sandbox.__main__ import main; sys.exit(main([]))"


def test_without_its_libraries_it_names_them() -> None:
    """They are an extra's, and this is no bug."""
    ran = subprocess.run([sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=False, timeout=60)

    assert 69 == ran.returncode
    assert "cms.sandbox needs trustme, of cms's extra: pip install '.[sandbox]'\n" == ran.stderr


@pytest.fixture
def remote(where: dict[str, str]) -> Iterator[Remote]:
    remote = Remote(where["control"])
    yield remote
    remote.clear_faults()


def token_endpoint(remote: Remote, **fields: str) -> dict[str, Any]:
    answer = requests.post(
        f"{remote.authority}/common/oauth2/v2.0/token",
        data={"client_id": CLIENT_ID, **fields},
        verify=remote.ca_file,
        timeout=10,
    )
    told: dict[str, Any] = answer.json()
    return told


def sign_in(remote: Remote, user: str, **more: str) -> dict[str, Any]:
    """Sign in without MSAL; return the token endpoint's answer."""
    fields = {"client_id": CLIENT_ID, "response_type": "code", "redirect_uri": "http://localhost/x"} | more
    fields["scope"] = " ".join(MAIL_SCOPES)
    url = requests.Request("GET", f"{remote.authority}/common/oauth2/v2.0/authorize", params=fields).prepare().url
    page = remote.sign_in(url or "", user, follow=False)
    return token_endpoint(
        remote,
        grant_type="authorization_code",
        code=page.fields["code"],
        redirect_uri=fields["redirect_uri"],
        scope=fields["scope"],
    )


def refresh(remote: Remote, token: str) -> dict[str, Any]:
    return token_endpoint(remote, grant_type="refresh_token", refresh_token=token, scope=" ".join(MAIL_SCOPES))


def test_sign_in_and_introspection(remote: Remote) -> None:
    """A sign-in in this process gives a token that the other process knows."""
    token = sign_in(remote, A)["access_token"]

    assert A == remote.introspect(token)["email"]
    assert requests.get(remote.introspect_url + token, timeout=10).json()["active"]


def test_settings(remote: Remote) -> None:
    """Settings are changed over the wire, unknown ones refused."""
    remote.set(token_life=9, rotate=False)
    life = sign_in(remote, A)["expires_in"]
    remote.set(token_life=3600, rotate=True)

    assert 9 == life
    with pytest.raises(RemoteError, match="no such setting: users"):
        remote.set(users=1)


def test_users_and_what_is_withdrawn(remote: Remote) -> None:
    """Users are made, challenged, revoked and consent withdrawn."""
    remote.add_user("c@example.test", ["shared@example.test"])
    numbers = []
    for withdraw in (remote.revoke, remote.challenge, remote.withdraw_consent):
        remote.add_user("c@example.test")
        token = sign_in(remote, "c@example.test")["refresh_token"]
        withdraw("c@example.test")
        numbers.append(refresh(remote, token)["error_codes"][0])

    assert [50173, 50076, 65001] == numbers


def test_faults_and_counting(remote: Remote) -> None:
    """Faults strike, requests are counted and waited for."""
    before = remote.count(fault="aadsts")
    remote.add_fault(Fault("aadsts", aadsts=53003))

    refused = token_endpoint(remote)

    assert [53003] == refused["error_codes"]
    assert before + 1 == remote.count(fault="aadsts")
    assert remote.wait_for(before + 1, fault="aadsts")
    assert not remote.wait_for(before + 2, seconds=0.01, fault="aadsts")


def test_down_and_up(remote: Remote) -> None:
    """The Entra in the other process goes down and comes back."""
    remote.go_down()
    with pytest.raises(requests.ConnectionError):
        token_endpoint(remote)
    remote.come_up()

    assert "error" in token_endpoint(remote)


def test_device(remote: Remote) -> None:
    """A device is approved from here."""
    flow = requests.post(
        f"{remote.authority}/common/oauth2/v2.0/devicecode",
        data={"client_id": CLIENT_ID, "scope": " ".join(MAIL_SCOPES)},
        verify=remote.ca_file,
        timeout=10,
    ).json()
    remote.approve_device(flow["user_code"], A)

    grant_type = "urn:ietf:params:oauth:grant-type:device_code"
    assert "access_token" in token_endpoint(remote, grant_type=grant_type, device_code=flow["device_code"])


def test_submission(remote: Remote, where: dict[str, str]) -> None:
    """The submission server beside it takes the tokens, and tells what it was sent."""
    host, _, port = where["submission"].partition(":")
    credential = sasl.xoauth2(A, remote.mint(A, life=60))
    with smtplib.SMTP(host, int(port), timeout=10) as client:
        client.starttls(context=ssl.create_default_context(cafile=where["ca_file"]))
        client.ehlo()
        client.auth("XOAUTH2", lambda _=None: credential)
        client.sendmail(A, ["b@example.test"], "Subject: hi\r\n\r\n")

    assert [(A, ["b@example.test"], "Subject: hi\r\n\r\n")] == [
        (each["user"], each["recipients"], each["content"]) for each in remote.messages()
    ]


def test_a_verb_that_fails(remote: Remote) -> None:
    """A mistake in the other process is an exception in this one."""
    with pytest.raises(RemoteError, match="AADSTS50034"):
        remote.mint("nobody@example.test")


def test_control_needs_its_path(where: dict[str, str]) -> None:
    """Nobody finds the verbs without having been told where."""
    guess = where["control"].rpartition("/")[0] + "/guess"

    assert 404 == requests.post(guess, data="{}", timeout=10).status_code


def test_without_a_submission_server() -> None:
    """An Entra alone has verbs too; no messages then."""
    with Entra([A]) as entra:
        assert [] == Remote(attach(entra)).messages()


@pytest.mark.parametrize("how", ["end of input", "SIGTERM", "SIGINT"])
def test_how_the_process_ends(how: str) -> None:
    """It ends in order, and silently, when its input ends and on the usual signals; its folder is gone then."""
    with subprocess.Popen(
        ARGV, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdin is not None
        where = json.loads(process.stdout.readline())
        if how == "end of input":
            process.stdin.write("words are of no account\n")
            process.stdin.close()
        else:
            process.send_signal(signal.Signals[how])
        status = process.wait(20)
        complaints = process.stderr.read()

    assert (0, "") == (status, complaints)
    assert not Path(where["ca_file"]).exists()
