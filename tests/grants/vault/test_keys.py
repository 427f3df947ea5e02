from __future__ import annotations

import base64
import os
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from support.grants import NoRing
from support.waiting import PATIENCE, until

from cms.core.accounts import Source
from cms.grants import secret_sources
from cms.grants.secret_sources import Absent, Locked, Missing
from cms.grants.vault import keyring, keys
from cms.grants.vault.keyring import KEY_BYTES, Key, Keyring, Patience, key_id, parse_key
from cms.grants.vault.keys import Keys

SECRET = bytes(range(KEY_BYTES))


class Ring:
    """A keyring backend with whatever behaviour a test gives it."""

    priority: float = 5

    def __init__(self, stored: str | None = None, error: Exception | None = None) -> None:
        self.stored = stored
        self.error = error

    def get_password(self, service: str, username: str) -> str | None:
        if self.error:
            raise self.error
        return self.stored

    def set_password(self, service: str, username: str, password: str) -> None:
        if self.error:
            raise self.error


def patient(ring: Any) -> Keyring:
    return Keyring(lambda: ring, Patience(20.0))


def reason(call: Callable[[], object]) -> str:
    with pytest.raises(Missing) as caught:
        call()
    return str(caught.value)


@given(st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES))
def test_key_in_every_form(secret: bytes) -> None:
    """A key may be raw, hex or base64 of either alphabet, with and without padding and white space around."""
    standard, urlsafe = base64.b64encode(secret), base64.urlsafe_b64encode(secret)
    forms = [secret, secret.hex().encode(), secret.hex().upper().encode() + b"\n", standard, b" " + standard + b"\n"]
    forms += [urlsafe, urlsafe.rstrip(b"=")]

    assert {secret} == {parse_key(form) for form in forms}


@pytest.mark.parametrize("raw", [b"", b"x", b"\xff" * 33, b"a" * 63, b"a" * 66, b"!" * 44, b"\n"])
def test_no_key(raw: bytes) -> None:
    """Anything but 32 bytes in a known form is refused, and not quoted."""
    assert "holds no key of 32 bytes, be it raw, hex or base64" == reason(lambda: parse_key(raw))


def test_key_id_is_public() -> None:
    """A key's id tells keys apart and says nothing of them."""
    assert 16 == len(key_id(SECRET))
    assert key_id(SECRET) != key_id(bytes(KEY_BYTES))
    assert key_id(SECRET) not in SECRET.hex()


class TestFile:
    """`Vault(key=File(path))`."""

    def test_made_private(self, tmp_path: Path) -> None:
        """cms makes the file itself, of mode 0600, and leaves no draft of it."""
        path = tmp_path / "folder" / "key"
        old = os.umask(0)
        try:
            secret = keys.KeyFile(str(path)).make()
        finally:
            os.umask(old)

        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        assert secret == parse_key(path.read_bytes())
        assert [path] == list(path.parent.iterdir())

    def test_not_made_twice(self, tmp_path: Path) -> None:
        """A file that is there is taken as it is."""
        path = tmp_path / "key"
        first = keys.KeyFile(str(path)).make()

        assert first == keys.KeyFile(str(path)).make()

    def test_faster_process_wins(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where two processes make the file at once, both have the same key."""
        path = tmp_path / "key"
        link = os.link

        def be_slower(draft: Path, place: Path) -> None:
            path.write_bytes(SECRET)
            path.chmod(0o600)
            link(draft, place)

        monkeypatch.setattr(os, "link", be_slower)

        assert SECRET == keys.KeyFile(str(path)).make()
        assert [path] == list(path.parent.iterdir())

    @pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o666, 0o610])
    def test_open_to_others_is_refused(self, tmp_path: Path, mode: int) -> None:
        """A key that others may read or write is no key, and the reason says which mode it has."""
        path = tmp_path / "key"
        path.write_bytes(SECRET)
        path.chmod(mode)

        assert f"has mode {mode:04o}: it must be 0600 or less" == reason(keys.KeyFile(str(path)).make)
        assert f"has mode {mode:04o}: it must be 0600 or less" == reason(lambda: keys.KeyFile(str(path)).find("x"))

    def test_another_owner_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of another user's could be replaced under us."""
        path = tmp_path / "key"
        path.write_bytes(SECRET)
        path.chmod(0o600)
        uid = path.stat().st_uid
        if uid == 0:
            os.chown(path, 4711, -1)
            uid = 4711
        monkeypatch.setattr(os, "geteuid", lambda: 4712)

        assert f"belongs to uid {uid}, not to uid 4712" == reason(keys.KeyFile(str(path)).make)

    def test_no_file(self, tmp_path: Path) -> None:
        """A folder is no key, a missing file is said to be missing, an impossible place is said to be one."""
        assert "cannot be read: it is a folder, not a regular file" == reason(keys.KeyFile(str(tmp_path)).make)
        assert "does not exist" == reason(lambda: keys.KeyFile(str(tmp_path / "none")).find("x"))
        (tmp_path / "file").touch()
        assert "cannot be read: Not a directory" == reason(keys.KeyFile(str(tmp_path / "file" / "key")).make)

    def test_device_is_refused(self, tmp_path: Path) -> None:
        """A key file is a regular file."""
        said = reason(lambda: secret_sources.read_private(os.devnull))

        assert "cannot be read: it is a device, not a regular file" == said

    def test_cannot_be_made(self) -> None:
        """Where no file can be made, the reason is the system's."""
        assert reason(keys.KeyFile("/proc/cms/key").make).startswith("cannot be made: ")


class TestCredential:
    """A systemd credential."""

    def test_absent(self, tmp_path: Path) -> None:
        """Without systemd's folder, or without the name in it, there is no such place."""
        with pytest.raises(Absent):
            secret_sources.read_credential("cms.key", {})
        with pytest.raises(Absent):
            secret_sources.read_credential("cms.key", {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        with pytest.raises(Absent, match=f"CREDENTIALS_DIRECTORY names {tmp_path}/gone, which is no folder"):
            secret_sources.read_credential("cms.key", {"CREDENTIALS_DIRECTORY": str(tmp_path / "gone")})

    def test_unreadable(self, tmp_path: Path) -> None:
        """One that is there and cannot be read is not the same as none."""
        (tmp_path / "cms.key").mkdir()
        environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}

        assert "cannot be read: it is a folder, not a regular file" == reason(
            lambda: secret_sources.read_credential("cms.key", environ)
        )


class TestCommand:
    """`Vault(key=Command(argv))`."""

    def run(self, program: str, seconds: float = 20.0) -> bytes:
        return secret_sources.run_command([sys.executable, "-c", program], seconds)

    def test_output(self) -> None:
        """What it prints is the secret; its standard input is empty."""
        assert b"secret\n" == self.run("import sys; sys.stdin.read(); print('secret')")

    def test_failure_hides_what_was_printed(self) -> None:
        """A command that fails gives no key, and nothing that it printed is shown."""
        program = "import sys; print('secret'); print('secret', file=sys.stderr); sys.exit(3)"

        assert "ended with status 3" == reason(lambda: self.run(program))

    def test_not_there(self) -> None:
        """A program that is not there is said to be missing."""
        assert "cannot be started: No such file or directory" == reason(
            lambda: secret_sources.run_command(["/no/such"])
        )

    @pytest.mark.parametrize("length", [secret_sources.MAX_SECRET, secret_sources.MAX_SECRET + 1])
    def test_bounded(self, length: int) -> None:
        """Output is read up to a limit, and what has more is no secret."""
        program = f"import sys; sys.stdout.write('x' * {length}); sys.stdout.flush()"
        if length <= secret_sources.MAX_SECRET:
            assert length == len(self.run(program))
        else:
            assert f"prints more than {secret_sources.MAX_SECRET} bytes" == reason(lambda: self.run(program))

    def test_endless(self) -> None:
        """A command that never stops printing is ended, and costs no memory."""
        assert "prints more than" in reason(lambda: secret_sources.run_command(["yes"], 20.0))

    def test_a_child_that_stays(self, tmp_path: Path) -> None:
        """A command is over when it has ended, though what it started, an agent for instance, holds its output open."""
        program = (
            "import subprocess, sys; print('secret', flush=True); "
            f"open({str(tmp_path / 'pid')!r}, 'w').write(str(subprocess.Popen(['sleep', '60']).pid))"
        )
        began = time.monotonic()
        output = self.run(program, 30.0)
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

        assert b"secret\n" == output
        assert time.monotonic() - began < 25.0

    def test_output_closed_early(self) -> None:
        """A command that has closed its output, and goes on, is waited for."""
        program = "import os; os.write(1, b'secret'); os.close(1); {}"

        assert b"secret" == self.run(program.format("pass"))
        with pytest.raises(Locked):
            self.run(program.format("import time; time.sleep(60)"), 0.5)

    def test_hanging(self) -> None:
        """A command that waits for a person is ended with all its children, and counts as locked."""
        program = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'], stdin=open('/dev/zero'))"

        with pytest.raises(Locked):
            self.run(program, 0.2)


@pytest.mark.parametrize("kind", ["file", "credential", "command"])
def test_secret_of_the_configuration(kind: str, tmp_path: Path) -> None:
    """A client secret is read from each kind of source."""
    path = tmp_path / "secret"
    path.write_text("client secret")
    path.chmod(0o600)
    value = {"file": (str(path),), "credential": ("secret",), "command": ("/bin/cat", str(path))}[kind]

    assert b"client secret" == secret_sources.read_source(Source(kind, value), {"CREDENTIALS_DIRECTORY": str(tmp_path)})


def test_missing_secret_of_the_configuration(tmp_path: Path) -> None:
    """A client secret that is not there is missing like a key."""
    assert "does not exist" == reason(lambda: secret_sources.read_source(Source("file", (str(tmp_path / "none"),))))


class TestPatience:
    """What may block for ever does not block us."""

    @pytest.fixture
    def released(self) -> Iterator[threading.Event]:
        event = threading.Event()
        yield event
        event.set()

    def test_result_and_exception_come_through(self) -> None:
        """What ends in time ends as if it had been called directly."""
        patience = Patience(20.0)

        assert 1 == patience.call(lambda: 1)
        with pytest.raises(ZeroDivisionError):
            patience.call(lambda: 1 // 0)

    def test_gives_up(self, released: threading.Event) -> None:
        """What does not end in time counts as locked; no second thread is started while it hangs."""
        patience = Patience(0.05)
        calls: list[int] = []

        def hang() -> bool:
            calls.append(1)
            return released.wait(PATIENCE)

        assert "did not answer within 0.05 s: it may be waiting for a person" == reason(lambda: patience.call(hang))
        assert "does not answer: it may be waiting for a person" == reason(lambda: patience.call(hang))
        until(lambda: calls, "the first call")
        assert [1] == calls

    def test_recovers(self, released: threading.Event) -> None:
        """Once the person has answered, the next question is asked."""
        patience = Patience(0.05)
        with pytest.raises(Locked):
            patience.call(lambda: released.wait(PATIENCE))
        released.set()

        def ask() -> bool:
            with suppress(Locked):
                return patience.call(lambda: True)
            return False

        assert until(ask, "a call that is let through")


class TestKeyring:
    """The desktop's keyring, as far as a fake can show it: tests/test_secret_service.py has the real one."""

    def test_null_backend(self) -> None:
        """A backend that discards what it is given is found out by reading back."""
        assert "does not keep what is stored in it" == reason(patient(Ring()).make)

    def test_entry_that_is_not_the_key(self) -> None:
        """Another program's entry is not taken for the key."""
        assert "holds no key of 32 bytes, be it raw, hex or base64" == reason(lambda: patient(Ring("?")).find("x"))
        stored = base64.b64encode(SECRET).decode()
        assert "holds another key under its name" == reason(lambda: patient(Ring(stored)).find("x"))
        assert SECRET == patient(Ring(stored)).find(key_id(SECRET))

    def test_locked_by_any_name(self) -> None:
        """A backend that says that it is locked is locked."""
        locked = type("KeyringLocked", (Exception,), {})("secret")

        with pytest.raises(Locked):
            patient(Ring(error=locked)).find("x")

    def test_failure_is_named_not_quoted(self) -> None:
        """A backend that fails is reported by the kind of failure only."""
        assert "failed: ValueError" == reason(patient(Ring(error=ValueError("secret"))).make)


class Plaintext(Ring):
    pass


class Chainer(Ring):
    def __init__(self, *backends: Ring) -> None:
        super().__init__()
        self.backends = backends


class Weak(Ring):
    priority = 0.5


class Unfit(Ring):
    @property
    def priority(self) -> float:  # type: ignore[override]  # backends compute theirs as well
        raise RuntimeError("not here")


@pytest.mark.parametrize("ring", [Plaintext(), Weak(), Unfit(), Chainer(), Chainer(Ring(), Plaintext())])
def test_unsafe_backends_are_refused(ring: Ring) -> None:
    """No key goes to a backend that keeps it in clear or not at all, nor to one that passes it on to such."""
    assert keyring.refusal(ring)


@pytest.mark.parametrize("ring", [Ring(), Chainer(Ring(), Ring())])
def test_safe_backends_are_taken(ring: Ring) -> None:
    """A backend with a priority of 1 or more is a place for a key."""
    assert "" == keyring.refusal(ring)


def test_real_unsafe_backends_are_refused() -> None:
    """keyring's own fail and null backends are refused."""
    refusals = [keyring.refusal(kind()) for kind in (fail.Keyring, null.Keyring)]

    assert refusals[0].startswith("is not there")
    assert refusals[1].endswith("keeps no secret safely")


class TestDesktop:
    """Which keyring is the desktop's."""

    @pytest.fixture(autouse=True)
    def _no_desktop(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
        monkeypatch.delenv("PYTHON_KEYRING_BACKEND", raising=False)
        self.config = tmp_path / "python_keyring" / "keyringrc.cfg"
        self.config.parent.mkdir()

    def choose(self, backend: str) -> None:
        self.config.write_text(f"[backend]\ndefault-keyring={backend}\n")

    def test_none(self) -> None:
        """Without a session bus there is no keyring, and that is no error."""
        with pytest.raises(Absent, match="no Secret Service"):
            keyring.desktop_ring()

    def test_null_chosen_by_its_user(self) -> None:
        """A user's choice of a backend that keeps nothing is refused."""
        self.choose("keyring.backends.null.Keyring")

        with pytest.raises(Absent, match="keeps no secret safely"):
            keyring.desktop_ring()

    def test_backend_chosen_by_its_user(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A user's choice of a safe backend is followed."""
        monkeypatch.setattr(sys, "path", list(sys.path))
        (tmp_path / "ring_for_test.py").write_text(
            "from keyring.backend import KeyringBackend\n"
            "class Mine(KeyringBackend):\n"
            "    priority = 3\n"
            "    get_password = set_password = lambda *_: None\n"
        )
        self.config.write_text(f"[backend]\ndefault-keyring=ring_for_test.Mine\nkeyring-path={tmp_path}\n")

        assert "Mine" == type(keyring.desktop_ring()).__name__
        # keyring remembers every class that was ever defined.
        KeyringBackend._classes = {each for each in KeyringBackend._classes if each.__name__ != "Mine"}


class TestKeys:
    """The order of sources, and what becomes of it when one fails."""

    def test_memory_only_when_asked(self) -> None:
        """`Vault(key="memory")` makes no key at all."""
        made = Keys(Source("memory"), environ={}, ring=NoRing())

        assert made.memory_only
        assert made.make() is None

    def test_memory_only_where_there_is_no_place(self) -> None:
        """With nothing configured, no credential and no keyring, the vault stays in memory."""
        made = Keys(None, environ={}, ring=NoRing())

        assert not made.memory_only
        assert made.make() is None
        assert not made.seen_locked

    def test_credential_before_keyring(self, tmp_path: Path) -> None:
        """A systemd credential is there on purpose: it comes first."""
        (tmp_path / "cms.key").write_bytes(SECRET)
        ring = patient(Ring(base64.b64encode(bytes(KEY_BYTES)).decode()))

        assert (
            Key(SECRET, "systemd credential")
            == Keys(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}, ring=ring).make()
        )

    def test_broken_credential_is_not_passed_over(self, tmp_path: Path) -> None:
        """A broken credential is an error: no sign-in silently becomes less safe."""
        (tmp_path / "cms.key").write_bytes(b"short")
        broken = Keys(None, environ={"CREDENTIALS_DIRECTORY": str(tmp_path)}, ring=NoRing())

        assert reason(broken.make).startswith("systemd credential holds no key")

    def test_locked_keyring_is_not_passed_over(self) -> None:
        """A locked keyring is waited for, and remembered: its process must not leave."""
        locked = type("KeyringLocked", (Exception,), {})()
        found = Keys(None, environ={}, ring=patient(Ring(error=locked)))

        with pytest.raises(Locked):
            found.make()
        with pytest.raises(Locked):
            found.find("x")
        assert found.seen_locked

    def test_named_source_is_not_passed_over(self, tmp_path: Path) -> None:
        """What the configuration names has to work: there is no quiet fall-back to memory."""
        for named in (Source("keyring"), Source("credential", ("none",))):
            with pytest.raises(Missing):
                Keys(named, environ={}, ring=NoRing()).make()

    def test_old_key_is_found_after_a_change_of_source(self, tmp_path: Path) -> None:
        """A file's key is looked for in the usual places as well as in the one that is configured now."""
        ring = patient(Ring(base64.b64encode(SECRET).decode()))
        found = Keys(Source("file", (str(tmp_path / "new"),)), environ={}, ring=ring)

        assert Key(SECRET, "keyring") == found.find(key_id(SECRET))

    def test_every_place_is_named(self, tmp_path: Path) -> None:
        """A key that is nowhere: the reason lists where was looked."""
        found = Keys(Source("file", (str(tmp_path / "new"),)), environ={}, ring=NoRing())

        assert (
            f"key file {tmp_path / 'new'} does not exist; "
            "systemd credential does not exist: CREDENTIALS_DIRECTORY is not set; keyring is not there"
        ) == reason(lambda: found.find("x"))

    def test_failure_is_shared_for_a_moment(self) -> None:
        """Many questions at once share one failed search; a moment later it is tried again."""
        ring = Ring()
        now = [0.0]
        found = Keys(None, environ={}, ring=patient(ring), clock=lambda: now[0])
        with pytest.raises(Missing):
            found.find(key_id(SECRET))
        ring.stored = base64.b64encode(SECRET).decode()

        with pytest.raises(Missing):
            found.find(key_id(SECRET))
        now[0] = keys.FAILURE_SECONDS
        assert SECRET == found.find(key_id(SECRET)).secret
