"""Moving stored sign-ins to another key."""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from support.grants import NoRing
from support.killed_lines import killed_at

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Granted, Refused, Transient
from cms.grants.messages import Rekey, Rekeyed
from cms.grants.secret_sources import Locked
from cms.grants.vault import entry_file, keys, vault_key
from cms.grants.vault import rekey as vault_rekey
from cms.grants.vault.entry_file import Entry, encrypt
from cms.grants.vault.keyring import KEY_BYTES, Key, Keyring, Patience, key_id
from cms.grants.vault.keys import Keys
from cms.grants.vault.rekey import rekey
from cms.grants.vault.store import Vault
from cms.system import files

GRANTS = tuple(
    Grant("https://login.example/common", "Client", f"{name}@example.test") for name in ("Ann", "ben", "cho")
)
SECRET = base64.b64encode(bytes(KEY_BYTES)).decode()


def entry(grant: Grant) -> Entry:
    return Entry(f'{{"RefreshToken": "{grant.login}"}}', "oid.tid", grant.login, 1700000000.0)


@dataclass
class Ring:
    """A keyring that keeps its keys on disk, as the desktop's does: what one process stores, the next one reads."""

    folder: Path
    locked: bool = False
    priority: float = 5

    def get_password(self, _service: str, username: str) -> str | None:
        if self.locked:
            raise Locked("is locked")
        path = self.folder / username
        return path.read_text() if path.exists() else None

    def set_password(self, _service: str, username: str, password: str) -> None:
        if self.locked:
            raise Locked("is locked")
        self.folder.mkdir(exist_ok=True)
        (self.folder / username).write_text(password)

    def delete_password(self, _service: str, username: str) -> None:
        (self.folder / username).unlink()


@dataclass
class Lab:
    """A state folder, and the keys that its configuration names; each vault is a new process's."""

    folder: Path
    named: Source | None = None
    old: Source | None = None
    environ: dict[str, str] = field(default_factory=dict)
    ring: Ring | None = None

    def __post_init__(self) -> None:
        self.state = self.folder / "state"
        self.named = self.named or self.file("old")

    def file(self, name: str) -> Source:
        return Source("file", (str(self.folder / f"{name}.key"),))

    def vault(self) -> Vault:
        ring = Keyring(lambda: self.ring, Patience(20.0)) if self.ring else NoRing()  # type: ignore[arg-type, return-value]  # chosen in the lambda
        return Vault(str(self.state), Keys(self.named, self.old, environ=self.environ, ring=ring), 20.0)

    def store(self, grant: Grant, what: Entry | None = None) -> None:
        with self.vault().hold(grant) as held:
            held.prepare()
            held.store(what or entry(grant))

    def read(self, grant: Grant) -> Entry | None:
        with self.vault().hold(grant) as held:
            return held.read()

    def origin(self, grant: Grant) -> str:
        """Return where the key of a sign-in is."""
        with self.vault().hold(grant) as held:
            held.read()
            return held.stored.key_from

    def move(self) -> Rekeyed | Transient | Refused:
        return rekey(self.vault(), Rekey(1))

    def path(self, grant: Grant) -> Path:
        return self.state / f"{grant.key}.vault"

    def contents(self) -> dict[str, bytes]:
        """Return every file but the locks."""
        found = (each for each in self.folder.rglob("*") if each.is_file() and each.suffix != ".lock")
        return {str(each.relative_to(self.folder)): each.read_bytes() for each in found}


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Three sign-ins with a key file, and the configuration of the move to another one."""
    lab = Lab(tmp_path)
    for grant in GRANTS:
        lab.store(grant)
    lab.named, lab.old = lab.file("new"), lab.file("old")
    return lab


def moved(end: object) -> tuple[int, str, tuple[str, ...]]:
    assert isinstance(end, Rekeyed), end
    assert () == end.unmoved
    return end.moved, end.key_from, end.before


def refused(end: object) -> str:
    assert isinstance(end, Refused), end
    assert "new-key" == end.trouble.kind
    assert "nothing was changed" in end.trouble.hint
    return end.trouble.message


def alone(lab: Lab) -> list[Entry | None]:
    """Return the sign-ins as the new key alone opens them."""
    return [replace(lab, old=None).read(grant) for grant in GRANTS]


def test_every_sign_in_moves(lab: Lab) -> None:
    """The new key file is made, all sign-ins need only that, and a second move has nothing to do."""
    old, new = lab.file("old"), lab.file("new")

    assert (3, f"key {new}", (f"key {old}",)) == moved(lab.move())
    assert [entry(grant) for grant in GRANTS] == alone(lab)
    assert 0o600 == stat.S_IMODE(Path(new.value[0]).stat().st_mode)
    assert (0, f"key {new}", ()) == moved(lab.move())


@pytest.mark.parametrize("sign_in", ["browser", "app"])
def test_access_tokens_move_along(lab: Lab, sign_in: str) -> None:
    """A restart after the move costs nothing either, also for an application, which has no sign-in."""
    grant = replace(GRANTS[0], scope_sets=(("scope",),), sign_in=sign_in)
    vault = replace(lab, old=None, named=lab.old).vault()
    with vault.hold(grant, ("scope",)) as held:
        held.read()
        held.prepare()
        held.store(entry(grant), Granted("access-token", vault.now().boot, 3600.0))
    lab.move()

    with replace(lab, old=None).vault().hold(grant, ("scope",)) as held:
        held.read()
        taken = held.minted("")
        assert taken
        assert "access-token" == taken[0].secret


def test_a_sign_in_of_an_older_cms_moves(lab: Lab) -> None:
    """It is of today's format then."""
    path = lab.path(GRANTS[0])
    key = Key(base64.b64decode((lab.folder / "old.key").read_bytes()), "key")
    head = path.read_bytes().partition(b"\n")[0].replace(b'"version": 2', b'"version": 1') + b"\n"
    clear = json.dumps(asdict(entry(GRANTS[0]))).encode()
    path.write_bytes(head + bytes(12) + AESGCM(key.secret).encrypt(bytes(12), clear, head))

    assert 3 == moved(lab.move())[0]
    assert [entry(grant) for grant in GRANTS] == alone(lab)


def test_the_old_key_stays(lab: Lab) -> None:
    """cms deletes no key that a backup may need."""
    before = (lab.folder / "old.key").read_bytes()
    lab.move()

    assert before == (lab.folder / "old.key").read_bytes()


def test_until_the_move_the_old_key_opens_all(lab: Lab) -> None:
    """A configuration that names both keys can be loaded at any time; renewals keep the old key until the move."""
    assert [entry(grant) for grant in GRANTS] == [lab.read(grant) for grant in GRANTS]
    lab.store(GRANTS[0])

    assert f"key {lab.old}" == lab.origin(GRANTS[0])
    assert not (lab.folder / "new.key").exists()


def test_the_next_sign_in_has_the_new_key(lab: Lab) -> None:
    """Also where one that cannot be moved still needs the old one."""
    shutil.copy(lab.path(GRANTS[1]), lab.path(GRANTS[0]))
    lab.move()
    late = replace(GRANTS[0], login="dan@example.test")
    lab.store(late)

    assert f"key {lab.named}" == lab.origin(late)


def _credential(lab: Lab) -> Source:
    folder = lab.folder / "credentials"
    folder.mkdir()
    (folder / "cms-new").write_text(SECRET)
    lab.environ["CREDENTIALS_DIRECTORY"] = str(folder)
    return Source("credential", ("cms-new",))


def _usual_credential(lab: Lab) -> None:
    _credential(lab)
    (lab.folder / "credentials" / "cms-new").rename(lab.folder / "credentials" / keys.CREDENTIAL)


def _keyring(lab: Lab) -> Source:
    lab.ring = Ring(lab.folder / "ring")
    return Source("keyring")


def _usual_keyring(lab: Lab) -> None:
    _keyring(lab)


PLACES: dict[str, Callable[[Lab], Source | None]] = {
    "key file": lambda lab: lab.file("another"),
    "command": lambda _: Source("command", ("echo", SECRET)),
    "systemd credential": _credential,
    "keyring": _keyring,
    "systemd credential, not named": _usual_credential,
    "keyring, not named": _usual_keyring,
}


@pytest.mark.parametrize("place", PLACES)
def test_from_anywhere_to_anywhere(lab: Lab, place: str) -> None:
    """To each place that `Vault(key=...)` takes, or that cms chooses without it, and from there to a file."""
    lab.named = PLACES[place](lab)
    count, key_from, _ = moved(lab.move())

    assert (3, True) == (count, key_from.startswith(place.partition(",")[0]))
    assert lab.named is None or lab.named.origin == key_from
    assert (0, key_from, ()) == moved(lab.move())
    assert [entry(grant) for grant in GRANTS] == alone(lab)

    lab.named, lab.old = lab.file("last"), lab.named
    assert (3, f"key {lab.named}", (key_from,)) == moved(lab.move())
    assert [entry(grant) for grant in GRANTS] == alone(lab)


def test_a_keyring_gets_one_key(lab: Lab) -> None:
    """However often the move is repeated."""
    lab.named = _keyring(lab)
    for _ in range(3):
        lab.move()

    assert 1 == len(list((lab.folder / "ring").iterdir()))


def _too_open(lab: Lab) -> None:
    (lab.folder / "new.key").write_text(SECRET)
    (lab.folder / "new.key").chmod(0o644)


def _no_key(lab: Lab) -> None:
    (lab.folder / "new.key").write_text("this is no key\n")
    (lab.folder / "new.key").chmod(0o600)


def _no_folder(lab: Lab) -> None:
    (lab.folder / "a-file").touch()
    lab.named = Source("file", (str(lab.folder / "a-file" / "new.key"),))


def _no_credential(lab: Lab) -> None:
    lab.named = Source("credential", ("none",))


def _failing_command(lab: Lab) -> None:
    lab.named = Source("command", ("false",))


def _forgetful_command(lab: Lab) -> None:
    lab.named = Source("command", ("head", "-c", str(KEY_BYTES), "/dev/urandom"))


def _locked_keyring(lab: Lab) -> None:
    lab.named = _keyring(lab)
    assert lab.ring
    lab.ring.locked = True


def _no_keyring(lab: Lab) -> None:
    lab.named = Source("keyring")


def _nothing_there(lab: Lab) -> None:
    lab.named = None


def _memory(lab: Lab) -> None:
    lab.named = Source("memory")


BAD = {
    "has mode 0644: it must be 0600 or less": _too_open,
    "holds no key of 32 bytes": _no_key,
    "cannot be read: Not a directory": _no_folder,
    "systemd credential does not exist": _no_credential,
    "command ended with status 1": _failing_command,
    "command holds another key": _forgetful_command,
    "keyring is locked": _locked_keyring,
    "keyring is not there": _no_keyring,
    "there is no place for one: no systemd credential, and no keyring": _nothing_there,
    'Vault(key="memory") stores nothing': _memory,
}


@pytest.mark.parametrize("said", BAD)
def test_a_new_key_that_cannot_be_used(lab: Lab, said: str) -> None:
    """The reason is said, and nothing is changed."""
    BAD[said](lab)
    before = lab.contents()

    assert said in refused(lab.move())
    assert before == lab.contents()


@pytest.mark.parametrize("how", ["not named", "lost"])
def test_without_the_old_key(lab: Lab, how: str) -> None:
    """`locked`, with the argument that names it; nothing is changed, and no new key is made."""
    if how == "lost":
        (lab.folder / "old.key").unlink()
    else:
        lab.old = None
    before = lab.contents()
    end = lab.move()

    assert isinstance(end, Transient)
    assert "locked" == end.trouble.kind
    assert "Vault(key=..., old_key=...), then `cms vault rekey`" in end.trouble.hint
    assert "tries again by itself" not in end.trouble.hint
    assert before == lab.contents()


def test_a_sign_in_that_cannot_be_read_stays(lab: Lab) -> None:
    """It is named with its reason, as often as one asks; the others move."""
    shutil.copy(lab.path(GRANTS[1]), lab.path(GRANTS[0]))
    lab.path(GRANTS[2]).write_bytes(lab.path(GRANTS[2]).read_bytes()[:-1])
    before = lab.path(GRANTS[2]).read_bytes()
    ends = [lab.move(), lab.move()]

    assert [1, 0] == [each.moved for each in ends if isinstance(each, Rekeyed)]
    for end in ends:
        assert isinstance(end, Rekeyed)
        assert {
            GRANTS[0].key: f"{lab.path(GRANTS[0])} belongs to another sign-in",
            GRANTS[2].key: f"{lab.path(GRANTS[2])} was truncated or tampered with",
        } == {each.key: each.message for each in end.unmoved}
    assert before == lab.path(GRANTS[2]).read_bytes()


def test_a_newer_cmss_file_stays(lab: Lab) -> None:
    """It is not this one's to replace."""
    newer = (
        lab.path(GRANTS[0])
        .read_bytes()
        .replace(f'"version": {entry_file.VERSION}'.encode(), f'"version": {entry_file.VERSION + 1}'.encode())
    )
    lab.path(GRANTS[0]).write_bytes(newer)
    end = lab.move()

    assert isinstance(end, Rekeyed)
    assert (2, [True]) == (end.moved, ["was written by a newer cms" in each.message for each in end.unmoved])
    assert newer == lab.path(GRANTS[0]).read_bytes()


def test_what_is_no_file_stays(lab: Lab) -> None:
    """It is named with the reason of the system."""
    lab.path(GRANTS[0]).unlink()
    lab.path(GRANTS[0]).mkdir()
    end = lab.move()

    assert isinstance(end, Rekeyed)
    assert (2, [f"{lab.path(GRANTS[0])} cannot be read: it is a folder, not a regular file"]) == (
        end.moved,
        [each.message for each in end.unmoved],
    )


def test_one_whose_key_is_lost_stays(lab: Lab) -> None:
    """A sign-in of a third key is named, and the others move."""
    stray = replace(GRANTS[0], login="dan@example.test")
    lab.path(stray).write_bytes(encrypt(stray, entry(stray), Key(b"x" * KEY_BYTES, "nowhere")))
    end = lab.move()

    assert isinstance(end, Rekeyed)
    assert 3 == end.moved
    assert [("dan@example.test", True)] == [(each.login, "cannot be read" in each.message) for each in end.unmoved]


def test_what_another_process_redeems_is_left_alone(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its successor is stored with the old key, and the next question moves it."""
    monkeypatch.setattr(vault_rekey, "BUSY_SECONDS", 0.0)
    newer = replace(entry(GRANTS[0]), cache='{"RefreshToken": "newer"}')
    with lab.vault().hold(GRANTS[0]) as held:
        held.read()
        held.prepare()
        end = lab.move()
        held.store(newer)

    assert isinstance(end, Rekeyed)
    assert (2, [GRANTS[0].key]) == (end.moved, [each.key for each in end.unmoved])
    assert 1 == moved(lab.move())[0]
    assert newer == alone(lab)[0]


def test_a_sign_in_under_way_is_waited_for(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file does not exist yet, and it has chosen the old key: it is not forgotten."""
    monkeypatch.setattr(vault_rekey, "BUSY_SECONDS", 0.0)
    late = replace(GRANTS[0], login="dan@example.test")
    with lab.vault().hold(late) as held:
        held.prepare()
        end = lab.move()
        held.store(entry(late))

    assert isinstance(end, Rekeyed)
    assert [late.key] == [each.key for each in end.unmoved]
    assert 1 == moved(lab.move())[0]
    assert f"key {lab.named}" == lab.origin(late)


def test_one_that_is_signed_out_meanwhile(lab: Lab) -> None:
    """A mark without a file is no sign-in, and nothing makes one of it."""
    lab.path(GRANTS[0]).rename(lab.path(GRANTS[0]).with_suffix(".redeeming"))

    assert 2 == moved(lab.move())[0]
    assert lab.read(GRANTS[0]) is None


def test_time_is_limited(lab: Lab) -> None:
    """After some seconds a question is answered; the next ones go on with the same key, until one moves none."""
    vault, clock = lab.vault(), itertools.count(0.0, vault_rekey.ROUND_SECONDS)
    first = rekey(vault, Rekey(1), lambda: next(clock))
    assert isinstance(first, Rekeyed)
    (lab.folder / "new.key").unlink()
    ends = [rekey(vault, Rekey(2, first.key), lambda: next(clock)) for _ in range(3)]

    assert [1, 1, 1, 0] == [moved(each)[0] for each in (first, *ends)]


@pytest.mark.parametrize("step", ["write", "rename"])
def test_no_room(lab: Lab, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """A disk that takes no file, or a different one than was written, loses nothing and leaves no draft."""
    before = {path: path.read_bytes() for path in lab.state.glob("*.vault")}
    if step == "write":
        monkeypatch.setattr(vault_rekey, "encrypt", lambda *_: b"something else\n")
    else:
        monkeypatch.setattr(Path, "replace", _read_only)
    end = lab.move()

    assert isinstance(end, Rekeyed)
    assert (0, 3) == (end.moved, len(end.unmoved))
    assert before == {path: path.read_bytes() for path in lab.state.glob("*.vault")}
    assert [] == list(lab.state.glob(".*"))


def _read_only(_draft: Path, _path: Path) -> None:
    raise OSError(30, os.strerror(30))


def test_killed_at_every_line(lab: Lab) -> None:
    """Wherever the move is killed, each sign-in can be read with one of the two keys, and a second one does the rest."""
    start = lab.folder / "start"
    shutil.copytree(lab.state, start)
    watched = (vault_rekey, vault_key, keys, entry_file, files)
    kills = 0
    # A move runs through a thousand lines, most of them three times: once for each sign-in.
    while killed_at(3 * kills + 1, lab.move, watched):
        kills += 1
        assert [entry(grant) for grant in GRANTS] == [lab.read(grant) for grant in GRANTS]
        lab.move()
        assert [entry(grant) for grant in GRANTS] == alone(lab)
        assert {each.name for each in start.glob("*.vault")} == {
            each.name for each in lab.state.iterdir() if each.suffix not in (".lock", "")
        }
        shutil.rmtree(lab.state)
        shutil.copytree(start, lab.state)
        (lab.folder / "new.key").unlink()

    assert 50 < kills


def test_a_draft_goes_with_its_sign_in(lab: Lab) -> None:
    """A killed move may leave one, and it can be decrypted."""
    draft = lab.state / f".{GRANTS[0].key}.vault.0123456789abcdef.cms-new"
    draft.touch()
    with lab.vault().hold(GRANTS[0]) as held:
        held.delete()

    assert not draft.exists()


def test_an_empty_vault(tmp_path: Path) -> None:
    """There is nothing to move, and the next sign-in has the new key."""
    lab = Lab(tmp_path)
    lab.store(GRANTS[0])
    lab.path(GRANTS[0]).unlink()
    lab.named, lab.old = lab.file("new"), lab.file("old")

    assert (0, f"key {lab.named}", ()) == moved(lab.move())
    lab.store(GRANTS[0])
    assert f"key {lab.named}" == lab.origin(GRANTS[0])


def test_a_key_that_cms_made_goes_with_the_last_sign_in(lab: Lab) -> None:
    """The new one as any other; the old one is its owner's to delete."""
    lab.move()
    lab.move()
    for grant in GRANTS:
        with lab.vault().hold(grant) as held:
            held.delete()

    assert f"key {lab.named}" == lab.vault().drop_key()
    assert not (lab.folder / "new.key").exists()
    assert (lab.folder / "old.key").exists()


def test_the_key_is_named_after_its_secret(lab: Lab) -> None:
    """What the daemon asks with next is the id in the files' headers."""
    end = lab.move()
    assert isinstance(end, Rekeyed)

    assert key_id(base64.b64decode((lab.folder / "new.key").read_bytes())) == end.key
    assert end.key.encode() in lab.path(GRANTS[0]).read_bytes()
