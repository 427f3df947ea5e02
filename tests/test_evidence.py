"""The search for secrets that ends every run of the tests: it finds them, and it fails the run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import evidence

from cms.sandbox.entra import Entra
from cms_oauth import sasl

USER = "searched@example.test"
# Like a refresh token of the sandbox's.
SECRET = "1." + "AbCdEf0123456789_-" * 4

LEAKY = """
import subprocess, sys
from cms.sandbox.entra import Entra

def test_that_prints_what_it_should_not():
    with Entra([{user!r}]) as entra:
        secret = entra.issue({user!r})
    {leak}
"""

LEAKS = {
    "printed": "print(secret)",
    "logged": "import logging; logging.warning('got %s', secret)",
    "an argument": "subprocess.run([sys.executable, '-c', '', secret])",
    "the environment": "subprocess.run([sys.executable, '-c', ''], env={'T': secret})",
    "an error": "subprocess.run([sys.executable, '-c', 'import sys; sys.exit(sys.stdin.read())'],"
    " input=secret, capture_output=True, text=True)",
}


def search(folder: Path, text: str, *secrets: str) -> list[str]:
    """Return what the search says of one text."""
    (folder / "secrets-1").write_text("\n".join(secrets))
    (folder / "output-1").write_text(text)
    return evidence.found_secrets(folder)


@pytest.fixture
def token() -> str:
    with Entra([USER]) as entra:
        return entra.issue(USER)


def test_nothing_is_found_in_clean_output(tmp_path: Path) -> None:
    """Ordinary lines hold no secret, not even next to one's name."""
    assert [] == search(tmp_path, "signed in; refresh_token stored\nGET /authorize?code_challenge=abc", SECRET)


@pytest.mark.parametrize(
    "text",
    ["{0}", "Authorization: Bearer {0}", "https://x/?code={0}&state=1", "b'{0}\\n'", "prefix{0}suffix"],
)
def test_a_secret_is_found_wherever_it_stands(tmp_path: Path, text: str) -> None:
    """Bare, in a header, in an address, in a repr, and inside a longer word."""
    found = search(tmp_path, text.format(SECRET), SECRET)

    assert ["output-1: a secret of the sandbox's"] == found


def test_a_web_token_is_found_though_no_test_named_it(tmp_path: Path, token: str) -> None:
    """Any JSON web token is a secret."""
    assert ["output-1: a JSON web token"] == search(tmp_path, f"got {token}")


def test_a_token_is_found_in_a_sasl_string(tmp_path: Path, token: str) -> None:
    """base64 hides nothing."""
    text = sasl.encode(sasl.xoauth2(USER, token))

    assert ["output-1: a JSON web token"] == search(tmp_path, f"AUTH XOAUTH2 {text}")


def test_what_is_found_is_not_shown(tmp_path: Path) -> None:
    """The report of a leak leaks nothing."""
    assert SECRET not in "".join(search(tmp_path, SECRET, SECRET))


def test_everything_that_crosses_the_sandbox_is_known() -> None:
    """Secrets are learnt from requests, answers and redirects alike."""
    fields = {"grant_type": "authorization_code", "code": "from-request", "code_verifier": "verifier"}
    answer = b'{"access_token": "from-answer", "expires_in": 3599}'

    found = set(evidence.secrets_of(fields, answer, "http://127.0.0.1/?code=from-redirect&state=s"))

    assert {"from-request", "verifier", "from-answer", "from-redirect"} == found


@pytest.mark.parametrize("leak", ["nothing", *LEAKS])
def test_a_leak_fails_the_run(tmp_path: Path, leak: str) -> None:
    """A run of tests in which a secret shows anywhere fails, though every test in it passes."""
    (tmp_path / "test_leaky.py").write_text(LEAKY.format(user=USER, leak=LEAKS.get(leak, "pass")))
    tests = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", "-q", "-c", os.devnull, "-p", "conftest", "-p", "no:cacheprovider"]
    # What leaks there is not this run's: it gathers separate evidence.
    own = {
        "PYTEST_ADDOPTS": "",
        "PYTHONPATH": str(tests),
        "TMPDIR": str(tmp_path),
        evidence.FOLDER_VARIABLE: str(tmp_path),
    }
    environment = {**os.environ, **own}

    with subprocess.Popen([*command, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment) as run:
        assert run.stdout
        said = run.stdout.read()

    assert ("1 passed" in said, leak != "nothing") == (True, run.returncode != 0), said
    assert ("SECRET in the evidence" in said) == (leak != "nothing")
