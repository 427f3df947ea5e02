"""Other programs' sign-ins, from their files to a token of cms's own: in the worker, against the sandbox."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import secretstorage
from support import evidence
from support import peers as made
from support.desktop import Desktop
from support.grants import ANN, BEN, Broker, dispatched, grant_for, opened
from support.peers import SignedIn
from support.programs import require_program
from support.proofs import write_private
from support.worlds import World, google_world, strict_world

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Granted, Outcome, Refused, Transient
from cms.grants.messages import Done, Import, Listed, Peek, Place
from cms.grants.transfer import find as imports
from cms.grants.transfer.find import NoPassword, find, is_gpg
from cms.grants.transfer.formats import Unfit
from cms.sandbox.directory import CLIENT_ID
from cms.sandbox.entra import Entra, Fault
from cms.sandbox.habits import CLIENT_SECRET

PASSWORD = "the proxy's password"
ENVIRON = {"HOME": "/nonexistent"}


@pytest.fixture
def ann(entra: Entra) -> SignedIn:
    """What another program has of Ann's."""
    return made.sign_in(entra, ANN)


@pytest.fixture
def broker(tmp_path: Path, entra: Entra) -> Iterator[Broker]:
    with dispatched(opened(tmp_path / "state", entra)) as running:
        yield running


@pytest.fixture
def gpg(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., bytes]]:
    """Yield a function that encrypts with GPG: for a key without a passphrase, or under an unknown passphrase."""
    program = require_program("gpg", "gpg")
    # gpg-agent's socket is in it, and a socket's path is short.
    home = tempfile.mkdtemp(prefix="gpg", dir="/tmp")
    monkeypatch.setenv("GNUPGHOME", home)

    def run(*arguments: str, text: bytes = b"") -> bytes:
        batch = ["--batch", "--quiet", "--pinentry-mode=loopback"]
        return subprocess.run([program, *batch, *arguments], input=text, capture_output=True, check=True).stdout

    run("--passphrase", "", "--quick-gen-key", "test@example.test")
    yield lambda text, *more: run(*(more or ("--encrypt", "--default-recipient-self")), text=text)
    subprocess.run(["gpgconf", "--kill", "gpg-agent"], check=False)
    shutil.rmtree(home, ignore_errors=True)


def put(folder: Path, raw: bytes) -> Place:
    path = folder / "kept"
    path.write_bytes(raw)
    return Place(str(path))


def bring_in(broker: Broker, grant: Grant, place: Place) -> Outcome:
    broker.send(Import(broker.number(), grant, place))
    return broker.done()


def refusal(outcome: Outcome) -> tuple[str, str]:
    """Return what a refusal says and advises, having made sure that it is one."""
    assert isinstance(outcome, Refused), outcome
    return outcome.trouble.message, outcome.trouble.hint


FILES: dict[str, Callable[[SignedIn], bytes]] = {
    "mutt_oauth2": made.mutt_file,
    "msal": lambda signed_in: signed_in.cache.encode(),
    "oauth2ms": made.oauth2ms_file,
    "sasl-xoauth2": made.sasl_file,
    "email-oauth2-proxy": lambda signed_in: made.proxy_file(signed_in, PASSWORD),
    "oama": made.oama_record,
    "pizauth": lambda signed_in: made.pizauth_dump([made.pizauth_account("work", signed_in.refresh_token)]),
}


# --- every program's, end to end ---


# The same of other providers' sign-ins, as each program names the provider: by a word, by an address, or not at all.
GOOGLES: dict[str, Callable[[SignedIn, str], bytes]] = {
    "mutt_oauth2": lambda signed_in, _: made.mutt_file(signed_in, registration="google"),
    "sasl-xoauth2": lambda signed_in, _: made.sasl_file(signed_in),
    "email-oauth2-proxy": lambda signed_in, url: made.proxy_file(signed_in, PASSWORD, token_url=url),
    "oama": lambda signed_in, _: made.oama_record(signed_in, service="google"),
    "pizauth": lambda signed_in, _: made.pizauth_dump(
        [made.pizauth_account("work", signed_in.refresh_token, signed_in.client_id)]
    ),
}


def of_another_program(world: World) -> SignedIn:
    """Sign Ann in at a provider that is not Microsoft."""
    found = SignedIn(ANN, json.loads(world.sign_in().cache)["refresh_token"], "", world.grant.client_id)
    evidence.keep_secret(found.refresh_token)
    return found


@pytest.mark.parametrize("make", GOOGLES.values(), ids=GOOGLES)
def test_a_sign_in_at_google_is_taken_over(tmp_path: Path, make: Callable[[SignedIn, str], bytes]) -> None:
    """As Microsoft's, with the file of Google's client as the account has it; the other program goes on as before."""
    with google_world() as world:
        signed_in = of_another_program(world)
        secret = Source("file", (str(write_private(tmp_path / "secret", CLIENT_SECRET)),))
        grant = replace(world.grant, client_secret=secret)
        place = put(tmp_path, make(signed_in, f"{world.server.authority}/token"))
        with dispatched(opened(tmp_path / "state", world.server)) as broker:
            end = bring_in(broker, grant, replace(place, password=PASSWORD))
            token = broker.acquire(grant)

            assert isinstance(end, Granted), end
            assert (ANN, "") == (end.sign_in.who, end.note)
            assert isinstance(token, Granted), token


def test_where_a_second_use_ends_the_sign_in_the_other_program_must_stop(tmp_path: Path) -> None:
    """A provider that rotates: the import says so, and that program's token is worth nothing from then on."""
    with strict_world() as world, dispatched(opened(tmp_path / "state", world.server)) as broker:
        signed_in = of_another_program(world)
        end = bring_in(broker, world.grant, put(tmp_path, made.sasl_file(signed_in, client_id=signed_in.client_id)))

        assert isinstance(end, Granted), end
        assert end.note.startswith("do not use sasl-xoauth2 for this account any more: ")


@pytest.mark.parametrize("make", FILES.values(), ids=FILES)
def test_a_sign_in_is_taken_over_for_good(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker, make: Callable[[SignedIn], bytes]
) -> None:
    """The file is read, redeemed and stored; from then on tokens come without it."""
    place = put(tmp_path, make(ann))
    end = bring_in(broker, grant_for(entra), replace(place, password=PASSWORD))
    Path(place.path).unlink()
    token = broker.acquire(grant_for(entra))

    assert isinstance(end, Granted), end
    assert (ANN, True, ANN) == (end.sign_in.who, end.sign_in.persisted, entra.introspect(end.secret)["email"])
    assert isinstance(token, Granted), token


def test_several_people_of_one_cache_are_told_apart(tmp_path: Path, entra: Entra, broker: Broker) -> None:
    """Each account gets its own person's."""
    place = put(tmp_path, made.sign_in(entra, ANN, BEN).cache.encode())
    ends = [bring_in(broker, grant_for(entra, user), place) for user in (ANN, BEN)]

    assert [ANN, BEN] == [end.sign_in.who for end in ends if isinstance(end, Granted)]


def test_whose_sign_ins_a_file_has(tmp_path: Path, entra: Entra, broker: Broker) -> None:
    """No password is needed for that; a name means the one that is called so."""
    place = put(tmp_path, made.sign_in(entra, ANN, BEN).cache.encode())

    def users(place: Place) -> list[str]:
        broker.send(Peek(broker.number(), place))
        reply = broker.receive()
        assert isinstance(reply, Done)
        assert isinstance(reply.outcome, Listed)
        return [each.login for each in reply.outcome.items]

    assert [ANN, BEN] == sorted(users(place))
    assert [BEN] == users(replace(place, entry=BEN))
    assert [ANN] == users(put(tmp_path, made.proxy_file(made.sign_in(entra, ANN), PASSWORD)))


def test_a_provider_that_gives_no_successor_leaves_the_old_one(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker
) -> None:
    """The refresh token that was imported is then the one that is kept."""
    entra.rotate = False
    end = bring_in(broker, grant_for(entra), put(tmp_path, made.mutt_file(ann)))

    assert isinstance(end, Granted), end
    assert isinstance(broker.acquire(grant_for(entra)), Granted)


def test_the_first_person_is_remembered(tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker) -> None:
    """user=None: the account belongs to the person whose sign-in it is."""
    end = bring_in(broker, grant_for(entra, ""), put(tmp_path, made.sasl_file(ann)))

    assert isinstance(end, Granted)
    assert ANN == end.sign_in.who


# --- refusals ---


def test_another_persons_sign_in_is_refused(tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker) -> None:
    """The provider says who it is, whatever the file says; nothing is stored."""
    message, hint = refusal(bring_in(broker, grant_for(entra, BEN), put(tmp_path, made.mutt_file(ann, email=BEN))))

    assert f"signed in as {ANN}, but this account is {BEN}" in message
    assert "--account=USER" in hint
    assert isinstance(broker.acquire(grant_for(entra, BEN)), Refused)


def test_another_application_is_refused_before_anything_is_asked(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker
) -> None:
    """Both are named, and what to write."""
    asked = len(entra.requests)
    message, hint = refusal(bring_in(broker, grant_for(entra), put(tmp_path, made.mutt_file(ann, client_id="other"))))

    assert "the application other, and the account uses" in message
    assert "name it in client_id= of the account" in hint
    assert asked == len(entra.requests)


def test_an_unnamed_application_is_guessed_at_when_it_fails(tmp_path: Path, entra: Entra, broker: Broker) -> None:
    """oama's entry does not name it; the provider only says that the token is not ours."""
    stranger = SignedIn(ANN, "a-token-of-another-application", "")
    message, hint = refusal(bring_in(broker, grant_for(entra), put(tmp_path, made.oama_record(stranger))))

    assert message.startswith("oama's sign-in was not imported: ")
    assert "if oama is configured with another client_id" in hint


def test_a_sign_in_that_has_ended_says_so(tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker) -> None:
    """In the provider's own terms, with the command that makes a new one."""
    entra.revoke(ANN, 700082)
    message, hint = refusal(bring_in(broker, grant_for(entra), put(tmp_path, made.mutt_file(ann))))

    assert "AADSTS700082" in message
    assert f"`cms login {ANN}`" in hint


def test_a_provider_that_is_down_loses_nothing(tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker) -> None:
    """The person is told to do it again, and then it works."""
    place = put(tmp_path, made.mutt_file(ann))
    entra.faults.add(Fault("status", status=503))
    down = bring_in(broker, grant_for(entra), place)

    assert isinstance(down, Transient)
    assert "import again" in down.trouble.hint
    assert isinstance(bring_in(broker, grant_for(entra), place), Granted)


def test_a_provider_that_cannot_be_reached_loses_nothing(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker
) -> None:
    """Not even its discovery document is there: nothing is redeemed."""
    entra.faults.add(Fault("status", endpoint="discovery", status=503))
    down = bring_in(broker, grant_for(entra), put(tmp_path, made.mutt_file(ann)))

    assert isinstance(down, Transient)
    assert "server" == down.trouble.kind


def test_a_vault_that_cannot_keep_it_is_asked_first(tmp_path: Path, entra: Entra, ann: SignedIn) -> None:
    """Nothing is redeemed for nothing."""
    no_key = Source("file", (str(tmp_path),))
    with dispatched(opened(tmp_path / "state", entra, key=no_key)) as broker:
        asked = len(entra.requests)
        end = bring_in(broker, grant_for(entra), put(tmp_path, made.mutt_file(ann)))

    assert isinstance(end, Transient)
    assert asked == len(entra.requests)


def test_a_password_is_asked_for_and_a_wrong_one_refused(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker
) -> None:
    """Only where one is needed."""
    place = put(tmp_path, made.proxy_file(ann, PASSWORD))
    wanting = bring_in(broker, grant_for(entra), place)
    message, _ = refusal(bring_in(broker, grant_for(entra), replace(place, password="wrong")))

    assert isinstance(wanting, Refused)
    assert "password" == wanting.trouble.kind
    assert f"the password does not open the sign-in of {ANN} in {place.path}" == message


def test_unknown_contents_and_formats_are_refused(tmp_path: Path, entra: Entra, broker: Broker) -> None:
    """With those that are known."""
    place = put(tmp_path, b"hello")
    for each in (place, replace(place, source="thunderbird")):
        _, hint = refusal(bring_in(broker, grant_for(entra), each))

        assert "mutt_oauth2, msal, oama, sasl-xoauth2, email-oauth2-proxy, pizauth" in hint


def test_nothing_of_a_file_is_ever_said(
    tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker, capfd: pytest.CaptureFixture[str]
) -> None:
    """Neither in an answer nor on the worker's output."""
    evidence.keep_secret(PASSWORD)
    said = []
    for make in FILES.values():
        place = replace(put(tmp_path, make(ann)), password=PASSWORD)
        for grant in (grant_for(entra), grant_for(entra, BEN), replace(grant_for(entra), client_id="other")):
            said += [repr(bring_in(broker, grant, place)), repr(Import(1, grant, place))]

    assert not any(secret in each for secret in (ann.refresh_token, PASSWORD) for each in [*said, *capfd.readouterr()])


# --- places ---


GRANT = Grant("https://localhost/common", CLIENT_ID, ANN)


@pytest.mark.parametrize("more", [(), ("--armor", "--encrypt", "--default-recipient-self")], ids=["binary", "armour"])
def test_a_gpg_file_is_decrypted(tmp_path: Path, gpg: Callable[..., bytes], more: tuple[str, ...]) -> None:
    """By gpg itself, as mutt_oauth2.py's pipe and oama do it."""
    place = put(tmp_path, gpg(made.MUTT_SAMPLE, *more))

    assert made.SAMPLE_TOKEN == find(place, GRANT).refresh_token


def test_a_gpg_file_that_does_not_open_says_how_to_find_out(
    tmp_path: Path, gpg: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no terminal to ask for a passphrase on: the person unlocks it first."""
    place = put(tmp_path, gpg(made.MUTT_SAMPLE))
    monkeypatch.setenv("GNUPGHOME", str(tmp_path))
    with pytest.raises(Unfit, match="is encrypted, and gpg ended with status") as refused:
        find(place, GRANT)

    assert f"`gpg --decrypt {place.path} > /dev/null`" in refused.value.hint


def test_a_file_under_a_passphrase_is_known_as_gpgs(gpg: Callable[..., bytes]) -> None:
    """`gpg --symmetric` writes such a file."""
    assert is_gpg(gpg(b"x", "--symmetric", "--passphrase", "x"))


@pytest.mark.parametrize("raw", [b"", b"{}", b"\x99\x01", b"\xff"])
def test_other_bytes_are_not_gpgs(raw: bytes) -> None:
    """A public key is no message, and neither is text."""
    assert not is_gpg(raw)


def test_oamas_own_file_is_found_by_name(tmp_path: Path, gpg: Callable[..., bytes]) -> None:
    """Where oama keeps its GPG files: below the state folder, by mail address."""
    for environ in ({"XDG_STATE_HOME": str(tmp_path)}, {"HOME": str(tmp_path)}):
        folder = Path(environ.get("XDG_STATE_HOME") or f"{tmp_path}/.local/state") / "oama"
        folder.mkdir(parents=True)
        (folder / f"{ANN}.oama").write_bytes(gpg(made.OAMA_SAMPLE))

        assert made.SAMPLE_TOKEN == find(Place(ANN, "oama"), GRANT, environ).refresh_token


@pytest.fixture
def desktop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desktop]:
    folder = tmp_path / "desktop"
    folder.mkdir()
    session = Desktop(folder)
    for name, value in session.environment.items():
        monkeypatch.setenv(name, value)
    yield session
    session.stop()


def test_oamas_entry_is_found_in_a_real_keyring(desktop: Desktop) -> None:
    """By the one attribute that oama gives it; a locked keyring and a missing entry say so."""
    desktop.start_keyring()
    bus = secretstorage.dbus_init()
    secretstorage.get_default_collection(bus).create_item("oama - ann", {"oama": ANN}, made.OAMA_SAMPLE)
    bus.close()

    assert made.SAMPLE_TOKEN == find(Place(ANN, "oama"), GRANT, ENVIRON).refresh_token
    with pytest.raises(Unfit, match=f"oama's entry for {BEN} does not hold it") as missing:
        find(Place(BEN, "oama"), GRANT, ENVIRON)
    desktop.lock()
    with pytest.raises(Unfit, match="is locked") as locked:
        find(Place(ANN, "oama"), GRANT, ENVIRON)
    assert "named by its path" in missing.value.hint
    assert "unlock the keyring" in locked.value.hint


def test_what_cannot_be_read_says_who_tried(tmp_path: Path) -> None:
    """The daemon may be another user than the one at the terminal."""
    with pytest.raises(Unfit, match="cannot be read: No such file or directory") as refused:
        find(Place(str(tmp_path / "none")), GRANT)

    assert f"uid {os.geteuid()}" in refused.value.hint


def test_only_files_of_some_size_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A FIFO does not hang the worker, nor does a film fill it."""
    os.mkfifo(tmp_path / "fifo")
    monkeypatch.setattr(imports, "MAX_FILE", 3)

    with pytest.raises(Unfit, match="it is a pipe, not a regular file"):
        find(Place(str(tmp_path / "fifo")), GRANT)
    with pytest.raises(Unfit, match="is larger than"):
        find(put(tmp_path, b"long"), GRANT)


def test_a_password_is_wanted_only_for_the_one_that_is_meant(tmp_path: Path) -> None:
    """What cannot be imported anyway asks for none."""
    place = put(tmp_path, made.PROXY_SAMPLE)
    here = replace(GRANT, authority="https://127.0.0.1/common")

    with pytest.raises(NoPassword):
        find(place, here)
    with pytest.raises(Unfit, match="a sign-in at"):
        find(place, GRANT)


def changes(cache: str, **fields: Any) -> bytes:
    return json.dumps({**json.loads(cache), **fields}).encode()


def test_a_cache_without_refresh_tokens_is_refused(tmp_path: Path, entra: Entra, ann: SignedIn, broker: Broker) -> None:
    """A program that never asked for offline_access has nothing to give."""
    message, _ = refusal(bring_in(broker, grant_for(entra), put(tmp_path, changes(ann.cache, RefreshToken={}))))

    assert "holds no refresh token" in message
