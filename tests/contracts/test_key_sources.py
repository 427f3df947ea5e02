"""One suite that every key source passes: what the vault relies on, whichever place holds its key."""

from __future__ import annotations

import base64
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cms.core.accounts import Source
from cms.grants.secret_sources import Absent, Missing
from cms.grants.vault.keyring import KEY_BYTES, Key, Keyring, key_id
from cms.grants.vault.keys import CREDENTIAL, Keys, KeySource

GIVEN = bytes(range(KEY_BYTES))
OTHER = bytes(KEY_BYTES)


class DictRing:
    """A keyring that lasts as long as the test."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        del self.entries[service, username]


class Place:
    """Somewhere a key can be, as several processes see it one after another."""

    def __init__(self, named: Source | None, environ: dict[str, str], ring: KeySource) -> None:
        self._named = named
        self._environ = environ
        self._ring = ring

    def opened(self) -> Keys:
        """Look at it with fresh eyes, as a new process does."""
        return Keys(self._named, environ=self._environ, ring=self._ring)


class NoRing:
    origin = "keyring"
    makes = False

    def remove(self, wanted: str) -> bool:
        raise Absent("is not there")

    def find(self, wanted: str) -> bytes:
        raise Absent("is not there")

    def make(self) -> bytes:
        raise Absent("is not there")


def _file(folder: Path) -> Place:
    return Place(Source("file", (str(folder / "keys" / "vault.key"),)), {}, NoRing())


def _named_credential(folder: Path) -> Place:
    (folder / "mine").write_text(GIVEN.hex() + "\n")
    return Place(Source("credential", ("mine",)), {"CREDENTIALS_DIRECTORY": str(folder)}, NoRing())


def _usual_credential(folder: Path) -> Place:
    (folder / CREDENTIAL).write_bytes(GIVEN)
    return Place(None, {"CREDENTIALS_DIRECTORY": str(folder)}, NoRing())


def _command(_folder: Path) -> Place:
    program = f"print({base64.b64encode(GIVEN).decode()!r})"
    return Place(Source("command", (sys.executable, "-c", program)), {}, NoRing())


def _keyring(_folder: Path) -> Place:
    ring = DictRing()
    return Place(Source("keyring"), {}, Keyring(lambda: ring))


def _usual_keyring(_folder: Path) -> Place:
    ring = DictRing()
    return Place(None, {}, Keyring(lambda: ring))


PLACES = [_file, _named_credential, _usual_credential, _command, _keyring, _usual_keyring]


@pytest.fixture(params=PLACES, ids=lambda each: each.__name__.strip("_"))
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    make: Callable[[Path], Place] = request.param
    return make(tmp_path)


def made(keys: Keys) -> Key:
    key = keys.make()
    assert key is not None
    return key


def test_made_key_is_found_again(place: Place) -> None:
    """The key that one process made is found by its id in the next one."""
    key = made(place.opened())

    assert key == place.opened().find(key.id)
    assert KEY_BYTES == len(key.secret)


def test_made_key_is_found_by_who_made_it(place: Place) -> None:
    """The process that made the key finds it without a second look."""
    keys = place.opened()
    key = made(keys)

    assert key is keys.find(key.id)


def test_another_key_is_missing(place: Place) -> None:
    """A key that is not the wanted one is never given out, and the reason says where was looked."""
    key = made(place.opened())

    with pytest.raises(Missing) as caught:
        place.opened().find(key_id(OTHER))
    assert key.origin in str(caught.value)


def test_nothing_is_found_where_nothing_was_made(place: Place) -> None:
    """Looking for a key makes none."""
    with pytest.raises(Missing):
        place.opened().find(key_id(OTHER))
    with pytest.raises(Missing):
        place.opened().find(key_id(OTHER))


def test_older_key_outlives_a_newer_one(place: Place) -> None:
    """A second key made in the same place does not overwrite the first: another state folder may need that."""
    first, second = made(place.opened()), made(place.opened())

    assert [first, second] == [place.opened().find(key.id) for key in (first, second)]


def test_origin_in_words(place: Place) -> None:
    """Where the key comes from is said in words that hold nothing of it."""
    key = made(place.opened())

    assert key.origin.split()[0] in ("key", "systemd", "command", "keyring")
    for text in (repr(key), repr(place.opened())):
        assert key.secret.hex() not in text
        assert base64.b64encode(key.secret).decode() not in text
        assert repr(key.secret) not in text


def test_what_cms_has_made_can_be_removed_and_nothing_else(place: Place) -> None:
    """A key that the user has given stays; a second time there is nothing to remove."""
    key = made(place.opened())

    assert (key.origin if key.made else "") == place.opened().remove(key.id)
    assert "" == place.opened().remove(key.id)
