"""docs/microsoft-setup.md: its configurations load, its commands are ones, and its facts are those that cms works with."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificate
from support.configuration import loader
from support.contrib import ROOT
from support.fragments import Block, blocks
from support.programs import require_program

from cms.cli import commands
from cms_oauth.microsoft import CLOUDS, PERMISSIONS, PORTALS

PAGE = (ROOT / "docs" / "microsoft-setup.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()

# Microsoft's own names for what the page writes as numbers (Microsoft Graph permissions reference).
GRAPH = "00000003-0000-0000-c000-000000000000"
SCOPES = {
    "SMTP.Send": "258f6531-6087-4cc4-bb90-092c5fb3ed3f",
    "IMAP.AccessAsUser.All": "652390e4-393a-48de-9484-05f9b1212954",
    "POP.AccessAsUser.All": "d7b7f2d9-0f45-4ea1-9d42-e50810c06991",
    "offline_access": "7427e0e9-2fba-42fe-b0c0-848c9e6a8182",
}
# Those that readers replace with their own.
EXAMPLES = {"00001111-aaaa-2222-bbbb-3333cccc4444", "22223333-bbbb-4444-cccc-5555dddd6666"}
EXCHANGE = "00000002-0000-0ff1-ce00-000000000000"

_GUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def of_language(language: str) -> list[Block]:
    return [block for block in blocks(PAGE) if block.language == language]


def marked(mark: str) -> Block:
    (found,) = (block for block in blocks(PAGE) if block.mark == mark)
    return found


@pytest.mark.parametrize("block", of_language("python"), ids=lambda block: block.text.partition("\n")[0])
def test_configurations_load_without_a_warning(block: Block, tmp_path: Path) -> None:
    """A copied example has no mistake in it, and nothing that `cms check` warns of."""
    assert () == loader(tmp_path)(block.text).warnings


def test_every_way_has_a_configuration() -> None:
    """A person, an application with each of its credentials, and a machine."""
    text = "".join(block.text for block in of_language("python"))
    ways = ("client_secret=", "certificate=", "client_assertion=", 'sign_in="managed-identity"', 'cloud="personal"')

    assert [] == [way for way in ways if way not in text]
    assert {"gcc-high", "china", "personal"} == set(re.findall(r'cloud="([\w-]+)"', text))


@pytest.mark.parametrize("block", of_language("sh"), ids=lambda block: block.text.partition("\n")[0])
def test_shell_blocks_are_shell(block: Block) -> None:
    """A shell accepts each block unchanged."""
    done = subprocess.run(["sh", "-n"], input=block.text, capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stderr)


def test_commands_of_cms_are_ones(capsys: pytest.CaptureFixture[str]) -> None:
    """Each `cms` command of the page exists with its options."""
    shown = re.findall(r"`(cms [a-z][^`]*)`", PAGE)
    shown += [line for block in of_language("sh") for line in block.text.splitlines() if line.startswith("cms ")]
    assert any("admin-consent-url" in each for each in shown)
    for each in shown:
        assert 0 == commands.main([*shlex.split(each)[1:], "--help"]), each
    assert "Usage:" in capsys.readouterr().out


def test_permissions_are_those_that_cms_asks_for() -> None:
    """The ids for `az` are of the mail permissions and of staying signed in, at Microsoft Graph."""
    ((resource,),) = (json.loads(marked("permissions").text),)
    ids = [each["id"] for each in resource["resourceAccess"]]

    assert GRAPH == resource["resourceAppId"]
    assert list(SCOPES.values()) == ids
    assert set(PERMISSIONS.values()) == set(SCOPES) - {"offline_access"}
    assert {"Scope"} == {each["type"] for each in resource["resourceAccess"]}


def test_the_commands_make_a_certificate(tmp_path: Path) -> None:
    """The file that the configuration names has the key and its certificate, and only its owner reads it."""
    require_program("openssl", "openssl")

    done = subprocess.run(
        ["sh", "-e", "-c", marked("test: certificate").text], cwd=tmp_path, capture_output=True, text=True, check=False
    )

    assert 0 == done.returncode, done.stderr
    pem = (tmp_path / "app.pem").read_bytes()
    key, certificate = load_pem_private_key(pem, None), load_pem_x509_certificate(pem)
    assert key.public_key() == certificate.public_key()
    assert 0o600 == (tmp_path / "app.pem").stat().st_mode & 0o777


def test_federated_credential_is_for_entra() -> None:
    """The audience is the one that Entra exchanges."""
    credential = json.loads(marked("federated").text)

    assert ["api://AzureADTokenExchange"] == credential["audiences"]
    assert {"name", "issuer", "subject", "audiences"} == set(credential)


def test_no_other_ids() -> None:
    """An id on the page is an example or one of Microsoft's that the tests know."""
    assert {*SCOPES.values(), *EXAMPLES, GRAPH, EXCHANGE} == set(_GUID.findall(PAGE))


def test_clouds_are_those_that_cms_works_with() -> None:
    """The table in docs/configuration.md has every cloud's hosts, and the portals are where their letters say."""
    rows = dict(re.findall(r'^\| `"([\w-]+)"`[^|]*\|(.*)\|$', CONFIGURATION, re.MULTILINE))

    for cloud in CLOUDS.values():
        cells = [each.strip() for each in rows[cloud.name].split("|")]
        login = cloud.login.removeprefix("https://")
        assert [login, f"{cloud.resource}/", cloud.imap_host, cloud.smtp_host, cloud.graph] == cells
    assert [] == [portal for portal in PORTALS.values() if portal not in PAGE]
