"""Which application signs in: what is asked, shown, and written."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.newcomers import GUID, Person, empty_home, wishes

from cms.cli.init import application
from cms.cli.init.application import chosen, steps
from cms.cli.init.first_config import Tenant, text_of, write
from cms.config.load import load
from cms.core.accounts import DEFAULT_REGISTRATION, registration_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return empty_home(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("answer", "client_id"),
    [("", DEFAULT_REGISTRATION.client_id), ("own", GUID), ("thunderbird", "9e5f94bc-e8a4-4e73-b8be-63364c29d753")],
)
def test_the_file_has_the_chosen_one(home: Path, answer: str, client_id: str) -> None:
    """The default is cloud_mdir_sync's. Thunderbird's redirect address leads nowhere here, so its answer is pasted."""
    person = Person(application=answer, ids=["my application", GUID.upper()])
    mine = chosen(wishes(home), Tenant(), person)
    write(Path(mine.config), text_of(mine, Tenant(), "no keyring"))
    grant = load(mine.config).accounts[0].grant

    assert client_id == grant.client_id
    assert (answer == "thunderbird") == (grant.sign_in == "paste")
    assert (answer == "own") == ("By clicks:" in person.said)
    assert (answer == "own") == ("that is no application id" in person.said)


def test_each_is_told_what_it_means() -> None:
    """In one line, before it is chosen: the 24 hours too, and whose the application is."""
    for word in (application.OWN, application.THUNDERBIRD, application.DEFAULT):
        assert re.search(rf"^  {word} +\S.*$", application._QUESTION, re.MULTILINE)
    assert "cloud_mdir_sync's: to try cms; each sign-in ends after 24 hours" in application._QUESTION
    thunderbird = registration_of("9e5f94bc-e8a4-4e73-b8be-63364c29d753")
    assert thunderbird
    assert thunderbird.name == application.THUNDERBIRD


def test_an_answer_that_never_comes(home: Path) -> None:
    """Is giving up."""
    with pytest.raises(KeyboardInterrupt):
        chosen(wishes(home), Tenant(), Person(application="own"))


def test_the_steps_are_the_pages() -> None:
    """The same words for az, and the same permissions as in docs/microsoft-setup.md."""
    page = (ROOT / "docs" / "microsoft-setup.md").read_text()
    (permissions,) = re.findall(r"<!-- permissions -->\n```json\n(.*?)```", page, re.DOTALL)
    (command,) = re.findall(r"^(az ad app create .*?--output tsv)$", page, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"^    (az ad app create .*)$", steps(Tenant()), re.MULTILINE)
    words = [
        each if each != "@permissions.json" else json.dumps(json.loads(permissions))
        for each in shlex.split(command.replace("\\\n", ""))
    ]

    assert sorted(words) == sorted(shlex.split(line))


def test_personal_accounts_need_another_kind() -> None:
    """An application of one organisation lets none of them in."""
    assert "AzureADMyOrg" in steps(Tenant())
    assert "AzureADandPersonalMicrosoftAccount" in steps(Tenant(personal=True))
