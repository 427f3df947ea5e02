"""What the worker does for one question, against the sandbox's Entra."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from support import peers
from support.exchanges import granted
from support.grants import (
    ANN,
    BEN,
    PATIENCE,
    SCOPES,
    TurnsUpLocked,
    grant_for,
    kind,
    service,
)
from support.proofs import AppCertificate, KeyPair, write_private
from support.worlds import google_grant, strict_grant

from cms.core.accounts import Grant, Source
from cms.core.lifecycle import Granted, Outcome, Refused, Transient, token_hash
from cms.grants.entra.client import Entra as Provider
from cms.grants.entra.flows import CodeFlow
from cms.grants.messages import (
    Import,
    Open,
    Place,
    Prompt,
    SignIn,
)
from cms.grants.oauth2.client import OAuth2
from cms.grants.providers import ExchangeEnd, Providers
from cms.grants.service import Conversation, Service
from cms.grants.vault.keys import Keys
from cms.grants.vault.store import Vault
from cms.sandbox.directory import APP_ID, APP_SECRET, TENANT, Client
from cms.sandbox.entra import Entra, Fault
from cms.sandbox.habits import GOOGLE_MAIL
from cms.sandbox.habits import google as google_habits
from cms.sandbox.habits import strict as strict_habits
from cms.sandbox.issuer import Issuer
from cms.sandbox.proving import ServiceAccount


class Answers(Conversation):
    """A conversation that needs no second thread: the person's answers are known, and so is what happens before them."""

    def __init__(
        self, *fields: Mapping[str, str] | None, before: Callable[[Prompt], None] = lambda _prompt: None
    ) -> None:
        super().__init__(lambda _prompt: None)
        self.fields = list(fields)
        self.before = before
        self.waited: list[float] = []
        self.prompted: list[Prompt] = []

    def prompt(self, prompt: Prompt) -> None:
        self.prompted.append(prompt)
        self.before(prompt)

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        self.waited.append(seconds)
        return self.fields.pop(0) if self.fields else None


def browse(entra: Entra, user: str = ANN) -> Answers:
    """Return a conversation with a person who signs in as `user`."""
    answers = Answers()
    answers.before = lambda prompt: answers.fields.append(entra.sign_in(prompt.url, user, follow=False).fields)
    return answers


class TestService:
    """Vault and provider together, in the caller's thread."""

    def sign_in(self, first: Open, grant: Grant, line: Conversation) -> Outcome:
        return service(first).sign_in(SignIn(1, grant, "browser"), line)

    def test_first_sign_in(self, first: Open, grant: Grant, entra: Entra) -> None:
        """No sign-in yet; a person signs in; from then on any process can redeem."""
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        outcome = self.sign_in(first, grant, browse(entra))
        assert isinstance(outcome, Granted)
        assert (True, ANN) == (outcome.sign_in.persisted, outcome.sign_in.who)
        again = service(first).acquire(grant, SCOPES)

        assert isinstance(again, Granted)
        assert again.sign_in.persisted
        assert again.sign_in.key_from.startswith("key file ")
        assert ANN == again.sign_in.who
        assert again.secret != outcome.secret

    def test_rotation_is_stored_before_it_is_answered(self, first: Open, grant: Grant, entra: Entra) -> None:
        """With reuse refused, every process redeems what the one before it was given."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))

        assert ["granted"] * 5 == [kind(service(first).acquire(grant, SCOPES)) for _ in range(5)]

    def test_threads_take_turns(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Many questions for one grant at once redeem one after the other, never the same refresh token."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))
        shared = service(first)
        outcomes: list[Outcome] = []
        threads = [threading.Thread(target=lambda: outcomes.append(shared.acquire(grant, SCOPES))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        assert ["granted"] * 8 == [kind(outcome) for outcome in outcomes]

    def test_wrong_user_is_not_stored(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Another person's sign-in leaves no trace and an earlier one untouched."""
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        self.sign_in(first, grant, browse(entra))
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))

        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_the_first_person_is_remembered(self, first: Open, entra: Entra) -> None:
        """An account without a user belongs to the first person who signs in, until a logout; both are named."""
        grant = grant_for(entra, "")
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        outcome = self.sign_in(first, grant, browse(entra, BEN))
        assert isinstance(outcome, Refused)
        assert "wrong-user" == outcome.trouble.kind
        assert (True, True) == (ANN in outcome.trouble.message, BEN in outcome.trouble.message)
        assert "`cms logout` first" in outcome.trouble.hint
        assert ANN == granted(service(first).acquire(grant, SCOPES)).sign_in.who
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

        service(first).sign_out(grant)
        assert "granted" == kind(self.sign_in(first, grant, browse(entra, BEN)))

    def test_a_renamed_person(self, first: Open, grant: Grant, entra: Entra, capfd: pytest.CaptureFixture[str]) -> None:
        """The account is the same under its new name: that is accepted, and said."""
        self.sign_in(first, grant, browse(entra))
        entra.directory.rename(ANN, "anna@example.test")
        outcome = self.sign_in(first, grant, browse(entra, "anna@example.test"))

        assert isinstance(outcome, Granted)
        assert "anna@example.test" == outcome.sign_in.who
        assert f"{ANN} is now called anna@example.test" in capfd.readouterr().err

    def test_a_new_name_proves_nothing(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Before the first sign-in, another name is another person."""
        entra.directory.rename(ANN, "anna@example.test")

        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, "anna@example.test")))

    @pytest.mark.parametrize("login", [ANN, ""])
    def test_another_account_of_the_same_name(self, first: Open, entra: Entra, login: str) -> None:
        """The new account of a reused name is refused until the person has signed out of the old one."""
        grant = grant_for(entra, login)
        self.sign_in(first, grant, browse(entra))
        entra.directory.add_user(ANN, anew=True)
        outcome = self.sign_in(first, grant, browse(entra))
        assert isinstance(outcome, Refused)
        assert "wrong-user" == outcome.trouble.kind
        assert f"signed in as {ANN}, but this is another account than the {ANN} before" in outcome.trouble.message
        assert f"`cms logout {login}` first".replace(" `", "`") in outcome.trouble.hint

        service(first).sign_out(grant)
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

    def test_forget(self, first: Open, grant: Grant, entra: Entra) -> None:
        """What was forgotten is gone; an empty token says so. Forgetting nothing is as good."""
        self.sign_in(first, grant, browse(entra))
        outcome = service(first).sign_out(grant)

        assert isinstance(outcome, Granted)
        assert "" == outcome.secret
        assert "no-sign-in" == kind(service(first).acquire(grant, SCOPES))
        assert "granted" == kind(service(first).sign_out(grant))

    def test_forget_what_cannot_be_deleted(self, first: Open, grant: Grant, state: Path) -> None:
        """A sign-in that cannot be deleted is not said to be gone."""
        (state / f"{grant.key}.vault").mkdir(parents=True)

        outcome = service(first).sign_out(grant)

        assert isinstance(outcome, Transient)
        assert "storage" == outcome.trouble.kind
        assert f"system; try again: `cms logout {ANN}`" in outcome.trouble.hint

    def test_key_lost(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """Without the key nothing is redeemed, and cms asks for no sign-in that could not be stored."""
        self.sign_in(first, grant, browse(entra))
        key = state.parent / "vault.key"
        secret = key.read_bytes()
        key.unlink()
        line = browse(entra)
        waits = service(first).acquire(grant, SCOPES)
        person = self.sign_in(first, grant, line)

        assert isinstance(waits, Transient)
        assert isinstance(person, Transient)
        assert ("locked", "locked") == (waits.trouble.kind, person.trouble.kind)
        assert "restore the key; cms tries again by itself." in waits.trouble.hint
        assert f"restore the key; start again: `cms login {ANN}`." in person.trouble.hint
        assert [] == line.prompted
        assert 0 == entra.count("token", grant_type="refresh_token")
        key.write_bytes(secret)
        key.chmod(0o600)
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_damaged(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """A damaged file stays until a person has signed in anew; then it is kept aside."""
        self.sign_in(first, grant, browse(entra))
        path = state / f"{grant.key}.vault"
        path.write_bytes(path.read_bytes()[:-1])
        damaged = path.read_bytes()
        assert "vault-damaged" == kind(service(first).acquire(grant, SCOPES))
        assert "wrong-user" == kind(self.sign_in(first, grant, browse(entra, BEN)))
        assert damaged == path.read_bytes()
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        assert [damaged] == [file.read_bytes() for file in state.glob("*.damaged-*")]

    def test_storage_fails_before(
        self, first: Open, grant: Grant, entra: Entra, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """On a full disk nothing is redeemed; with room again all is as before."""
        self.sign_in(first, grant, browse(entra))

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            assert "storage" == kind(service(first).acquire(grant, SCOPES))

        assert 0 == entra.count("token", grant_type="refresh_token")
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_storage_fails_after(
        self, first: Open, grant: Grant, entra: Entra, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token whose successor could not be stored is not served; a refusal that follows is explained by it."""
        entra.refuse_reuse = True
        self.sign_in(first, grant, browse(entra))

        def broken(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", broken)
            assert "storage" == kind(service(first).acquire(grant, SCOPES))
        refused = service(first).acquire(grant, SCOPES)

        assert isinstance(refused, Refused)
        assert "reused" == refused.trouble.kind
        assert "before storing its successor" in refused.trouble.message
        assert f"`cms login {ANN}`" in refused.trouble.hint
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_lost_answer(self, first: Open, grant: Grant, entra: Entra) -> None:
        """An answer that is lost on its way costs nothing where Entra does as documented, and is explained elsewhere."""
        self.sign_in(first, grant, browse(entra))
        entra.faults.add(Fault("reset", after=True))
        assert "network" == kind(service(first).acquire(grant, SCOPES))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        entra.refuse_reuse = True
        entra.faults.add(Fault("truncated", after=True))
        assert "garbage" == kind(service(first).acquire(grant, SCOPES))

        assert "reused" == kind(service(first).acquire(grant, SCOPES))

    def test_other_refusals_are_not_blamed_on_it(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A refusal with another reason keeps it, and one without a lost answer is not called reuse."""
        self.sign_in(first, grant, browse(entra))
        entra.faults.add(Fault("aadsts", aadsts=70000))
        assert "refused" == kind(service(first).acquire(grant, SCOPES))
        entra.faults.add(Fault("reset", after=True))
        assert "network" == kind(service(first).acquire(grant, SCOPES))
        entra.faults.add(Fault("aadsts", aadsts=50173))

        assert "refused" == kind(service(first).acquire(grant, SCOPES))

    @pytest.mark.parametrize("number", [50173, 70043, 700003, 50076, 65001, 7000112])
    def test_a_refusal_by_reuse_stays_explained(self, first: Open, grant: Grant, entra: Entra, number: int) -> None:
        """A provider that noticed the reuse gives other reasons afterwards: the first one is still told, with theirs."""
        self.sign_in(first, grant, browse(entra))
        entra.refuse_reuse = True
        entra.faults.add(Fault("truncated", after=True))
        service(first).acquire(grant, SCOPES)
        assert "reused" == kind(service(first).acquire(grant, SCOPES))
        for _ in range(2):
            entra.faults.add(Fault("aadsts", aadsts=number))
            refused = service(first).acquire(grant, SCOPES)

            assert isinstance(refused, Refused)
            assert ("reused", number) == (refused.trouble.kind, refused.trouble.aadsts)
            assert "before storing its successor" in refused.trouble.message
            assert f"AADSTS{number}" in refused.trouble.message
        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        entra.faults.add(Fault("aadsts", aadsts=number))
        refused = service(first).acquire(grant, SCOPES)
        assert isinstance(refused, Refused)
        assert "successor" not in refused.trouble.message

    def test_a_mark_is_told_with_any_refusal(self, first: Open, grant: Grant, entra: Entra) -> None:
        """The reason is the provider's, and what may be behind it is told as well."""
        self.sign_in(first, grant, browse(entra))
        entra.faults.add(Fault("truncated", after=True))
        service(first).acquire(grant, SCOPES)
        entra.faults.add(Fault("aadsts", aadsts=50173))
        refused = service(first).acquire(grant, SCOPES)

        assert isinstance(refused, Refused)
        assert "refused" == refused.trouble.kind
        assert "cms was interrupted after redeeming a refresh token" in refused.trouble.message

    def test_a_server_without_a_successor(
        self, first: Open, grant: Grant, entra: Entra, state: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A server that does not rotate leaves no mark, and its token is served even if it cannot be stored."""
        self.sign_in(first, grant, browse(entra))
        service(first).acquire(grant, SCOPES)
        entra.rotate = False
        before = {path.name for path in state.iterdir()}

        def broken(_descriptor: int) -> None:
            raise OSError(5, "Input/output error")

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        monkeypatch.setattr(os, "fsync", broken)
        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        assert before == {path.name for path in state.iterdir()}

    def test_a_stored_token_is_taken(self, first: Open, grant: Grant, entra: Entra) -> None:
        """By a daemon that holds none, without a word to Entra, and with what is known of the sign-in."""
        self.sign_in(first, grant, browse(entra))
        redeemed = service(first).acquire(grant, SCOPES)
        entra.go_down()
        taken = service(first).acquire(grant, SCOPES, "")

        assert isinstance(redeemed, Granted)
        assert isinstance(taken, Granted)
        assert (redeemed.secret, redeemed.scopes, redeemed.expires_in) == (taken.secret, taken.scopes, taken.expires_in)
        assert 1.0 > abs(redeemed.issued - taken.issued)
        assert redeemed.sign_in == replace(taken.sign_in, redeemed_at=0.0)
        assert 0.0 < taken.sign_in.redeemed_at <= time.time()

    def test_the_token_of_a_sign_in_is_stored(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A daemon that starts after `cms login` need not redeem."""
        signed_in = self.sign_in(first, grant, browse(entra))
        taken = service(first).acquire(grant, SCOPES, "")

        assert isinstance(signed_in, Granted)
        assert isinstance(taken, Granted)
        assert (signed_in.secret, 0) == (taken.secret, entra.count("token", grant_type="refresh_token"))

    def test_who_has_the_stored_token_gets_another(self, first: Open, grant: Grant, entra: Entra) -> None:
        """As a daemon whose token is due; and so does who wants no stored one, or one for other scopes."""
        signed_in = self.sign_in(first, grant, browse(entra))
        assert isinstance(signed_in, Granted)
        for scopes, known in ((SCOPES, token_hash(signed_in.secret)), (SCOPES, None), (SCOPES[:1], "")):
            outcome = service(first).acquire(grant, scopes, known)
            assert isinstance(outcome, Granted)
            assert signed_in.secret != outcome.secret

        assert 3 == entra.count("token", grant_type="refresh_token")

    def test_a_refused_token_is_deleted_before_the_refresh(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A refresh that fails leaves nothing of it; one that nobody has refused stays."""
        signed_in = self.sign_in(first, grant, browse(entra))
        assert isinstance(signed_in, Granted)
        held = token_hash(signed_in.secret)
        entra.faults.add(Fault("status", times=None))
        assert "server" == kind(service(first).acquire(grant, SCOPES, held))
        assert "granted" == kind(service(first).acquire(grant, SCOPES, ""))
        assert "server" == kind(service(first).acquire(grant, SCOPES, held, held))

        assert "server" == kind(service(first).acquire(grant, SCOPES, ""))

    def test_a_stored_token_is_doubtful_after_a_refusal(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Until there is another one: the sign-in may have ended, and the daemon asks at once."""
        signed_in = granted(self.sign_in(first, grant, browse(entra)))
        held = token_hash(signed_in.secret)
        for aadsts in (50173, 53003):
            entra.faults.add(Fault("aadsts", aadsts=aadsts))
            assert "refused" == kind(service(first).acquire(grant, SCOPES, held))
            taken = granted(service(first).acquire(grant, SCOPES, ""))
            assert (signed_in.secret, True) == (taken.secret, taken.doubtful)
        service(first).acquire(grant, SCOPES, held)

        assert not granted(service(first).acquire(grant, SCOPES, "")).doubtful

    def test_a_changed_secret_ends_stored_tokens(self, first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> None:
        """They came by another one, which somebody may have had a reason to replace."""
        entra.register(Client(APP_ID, ("http://localhost/*",), secret=APP_SECRET))
        path = write_private(tmp_path / "secret", APP_SECRET)
        grant = replace(grant, client_id=APP_ID, client_secret=Source("file", (str(path),)))
        signed_in = granted(self.sign_in(first, grant, browse(entra)))
        assert signed_in.secret == granted(service(first).acquire(grant, SCOPES, "")).secret
        entra.register(Client(APP_ID, ("http://localhost/*",), secret="another"))
        write_private(path, "another")
        renewed = granted(service(first).acquire(grant, SCOPES, ""))
        assert signed_in.secret != renewed.secret
        write_private(path, APP_SECRET)

        assert "granted" != kind(service(first).acquire(grant, SCOPES, ""))

    def test_a_stored_token_needs_no_secret(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Whatever has become of the application's: it is for the next refresh."""
        self.sign_in(first, grant, browse(entra))
        without = replace(grant, client_secret=Source("file", ("/nonexistent",)))

        assert "granted" == kind(service(first).acquire(without, SCOPES, ""))
        assert "granted" != kind(service(first).acquire(without, SCOPES))

    def test_memory_has_no_stored_token(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """What is in memory only is redeemed."""
        worker = service(replace(first, key=Source("memory")))
        assert "granted" == kind(worker.sign_in(SignIn(1, grant, "browser"), browse(entra)))

        assert "granted" == kind(worker.acquire(grant, SCOPES, ""))
        assert (1, False) == (entra.count("token", grant_type="refresh_token"), state.exists())

    def test_fault_before_the_sign_in(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A sign-in that cannot begin shows no prompt."""
        entra.faults.add(Fault("status", "discovery", status=503))
        line = browse(entra)

        outcome = self.sign_in(first, grant, line)
        assert isinstance(outcome, Transient)
        assert ("server", f"wait a minute, then start again: `cms login {ANN}`") == (
            outcome.trouble.kind,
            outcome.trouble.hint,
        )
        assert [] == line.prompted

    def test_a_sign_in_that_is_not_completed(self, first: Open, grant: Grant) -> None:
        """A browser sign-in that is not completed expires."""
        line = Answers(None)
        outcome = self.sign_in(first, grant, line)

        assert "expired" == kind(outcome)
        assert [600.0] == line.waited

    @pytest.mark.parametrize(
        ("flow", "noted"), [("authcode", True), ("devicecode", False), ("localhostauthcode", False)]
    )
    def test_an_import_tells_of_a_redirect_that_no_longer_works(
        self, first: Open, grant: Grant, entra: Entra, tmp_path: Path, flow: str, *, noted: bool
    ) -> None:
        """It is taken over all the same; where Microsoft's own page was used, the next sign-in needs another way."""
        path = tmp_path / "tokens"
        write_private(path, peers.mutt_file(peers.sign_in(entra, ANN), authflow=flow))
        end = service(first).answer(Import(1, grant, Place(str(path))))

        assert isinstance(end, Granted)
        assert noted == ("register http://localhost" in end.note)
        assert noted == (f"`cms login {ANN} --device`" in end.note)

    def test_given_up(self, first: Open, grant: Grant) -> None:
        """A sign-in that is given up says so."""
        conversation = Conversation(lambda _prompt: conversation.cancel())

        assert "cancelled" == kind(self.sign_in(first, grant, conversation))

    def test_given_up_while_the_code_is_redeemed(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A sign-in that was given up is not stored, however far it had come: a logout stays one."""
        worker = service(first)
        redeemed = CodeFlow.finish

        def finish(flow: CodeFlow, fields: Mapping[str, str]) -> ExchangeEnd:
            answer = redeemed(flow, fields)
            conversation.cancel()
            return answer

        def browse(prompt: Prompt) -> None:
            conversation.redirected(entra.sign_in(prompt.url, ANN, follow=False).fields)

        conversation = Conversation(browse)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(CodeFlow, "finish", finish)
            assert "cancelled" == kind(worker.sign_in(SignIn(1, grant, "browser"), conversation))

        assert "no-sign-in" == kind(worker.acquire(grant, SCOPES))

    def test_given_up_before_the_prompt(self, first: Open, grant: Grant) -> None:
        """What was given up before it began shows no prompt."""
        prompts: list[Prompt] = []
        conversation = Conversation(prompts.append)
        conversation.cancel()

        assert "cancelled" == kind(self.sign_in(first, grant, conversation))
        assert [] == prompts

    def test_conversation_runs_out(self) -> None:
        """Waiting ends without an answer when the time is over, even if it was over before."""
        conversation = Conversation(lambda _prompt: None)

        assert conversation.wait(0.0) is None
        assert conversation.wait(-1.0) is None

    def test_prompt(self, first: Open, grant: Grant, entra: Entra) -> None:
        """The prompt has the link, the address that it comes back to and the value to know it by."""
        line = browse(entra)
        self.sign_in(first, grant, line)
        prompt = line.prompted[0]

        assert (1, "browser", "", 600.0, grant.redirect_uri) == (
            prompt.number,
            prompt.method,
            prompt.user_code,
            prompt.expires_in,
            prompt.redirect_uri,
        )
        assert f"state={prompt.state}" in prompt.url

    def test_device(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A device sign-in polls at the provider's pace until the person has approved."""
        entra.device_interval = 3
        line = Answers(None, None, None)
        question = SignIn(1, grant, "device")
        line.before = lambda prompt: entra.approve_device(prompt.user_code, ANN)

        assert "granted" == kind(service(first).sign_in(question, line))
        assert [3.0] == line.waited
        assert "device" == line.prompted[0].method
        assert "" == line.prompted[0].state

    @pytest.mark.parametrize("method", ["browser", "paste", "device"])
    def test_a_challenge_is_answered(self, first: Open, grant: Grant, entra: Entra, method: str) -> None:
        """What a refused refresh demands is carried into the next sign-in, whichever way that is made."""
        entra.device_interval = 1
        self.sign_in(first, grant, browse(entra))
        entra.challenge(ANN)
        refused = service(first).acquire(grant, SCOPES)
        assert isinstance(refused, Refused)
        line = browse(entra)
        if method == "device":
            line.before = lambda prompt: entra.approve_device(prompt.user_code, ANN)
        question = SignIn(1, grant, method, refused.trouble.claims)

        assert "granted" == kind(service(first).sign_in(question, line))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))

    def test_a_challenge_alone_keeps_no_process(self, first: Open, grant: Grant, entra: Entra) -> None:
        """In memory, nothing but a sign-in is a reason for the worker to stay."""
        worker = service(replace(first, key=Source("memory")))
        entra.challenge(ANN)

        assert "refused" == kind(worker.sign_in(SignIn(1, grant, "browser"), browse(entra)))
        assert not worker.stays

    def test_device_is_not_polled_in_a_pause(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A pause that the provider asks for is kept; one that outlives the code is waited for no longer than that."""
        line = Answers()
        worker = service(first, clock=lambda: sum(line.waited))
        entra.faults.add(Fault("status", status=429, retry_after="120"))
        entra.faults.add(Fault("status", status=429, retry_after="3000"))

        assert "expired" == kind(worker.sign_in(SignIn(1, grant, "device"), line))
        assert [5.0, 120.0, 775.0] == line.waited
        assert 2 == entra.count("token")

    @pytest.mark.parametrize("how", ["by the clock", "by Entra"])
    def test_device_expires(self, first: Open, grant: Grant, entra: Entra, how: str) -> None:
        """When a device code runs out, the hint says what organisations do to this flow, and names the others."""
        line = Answers()
        worker = service(first, clock=lambda: 450.0 * len(line.waited) if how == "by the clock" else 0.0)
        if how == "by Entra":
            entra.faults.add(Fault("aadsts", aadsts=70019))
        outcome = worker.sign_in(SignIn(1, grant, "device"), line)

        assert isinstance(outcome, Refused)
        assert "expired" == outcome.trouble.kind
        assert f"`cms login {ANN} --browser`" in outcome.trouble.hint
        assert (2 if how == "by the clock" else 1) == entra.count("token")

    def test_client_secret(self, first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> None:
        """A client secret is read from its source by the worker, for the sign-in and for each redemption."""
        client = entra.directory.client(APP_ID)
        entra.register(replace(client, redirects=("http://localhost/*",)))
        path = tmp_path / "client-secret"
        path.write_text(APP_SECRET + "\n")
        path.chmod(0o600)
        grant = replace(grant, client_id=APP_ID, client_secret=Source("file", (str(path),)))

        assert "granted" == kind(self.sign_in(first, grant, browse(entra)))
        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        path.write_bytes(b"\xff")
        assert "locked" == kind(service(first).acquire(grant, SCOPES))
        path.unlink()
        outcome = service(first).acquire(grant, SCOPES)
        assert isinstance(outcome, Transient)
        assert "locked" == outcome.trouble.kind
        assert str(path) in outcome.trouble.message

    def test_a_certificate_in_place_of_a_secret(self, first: Open, grant: Grant, entra: Entra, tmp_path: Path) -> None:
        """An application that people sign in to may have one too; when it ends is told with each token."""
        made = AppCertificate()
        entra.register(Client(APP_ID, ("http://localhost/*",), certificates=(made.public,)))
        path = write_private(tmp_path / "app.pem", made.pem())
        grant = replace(grant, client_id=APP_ID, certificate=Source("file", (str(path),)))
        outcomes = (self.sign_in(first, grant, browse(entra)), service(first).acquire(grant, SCOPES))

        assert [float(int(made.ends))] * 2 == [granted(each).sign_in.credential_expires for each in outcomes]

    def test_memory_only(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """With no place for a key the sign-in lasts as long as its process, and every answer says so."""
        worker = service(replace(first, key=None))
        signed_in = worker.sign_in(SignIn(1, grant, "browser"), browse(entra))
        acquired = worker.acquire(grant, SCOPES)

        for outcome in (signed_in, acquired):
            assert isinstance(outcome, Granted)
            assert (False, "memory only") == (outcome.sign_in.persisted, outcome.sign_in.key_from)
        assert worker.stays
        assert not list(state.glob("*.vault"))
        worker.rest()
        assert "granted" == kind(worker.acquire(grant, SCOPES))

    @pytest.mark.parametrize("when", ["before a refresh", "during a sign-in"])
    def test_a_keyring_that_turns_up_locked(self, first: Open, grant: Grant, entra: Entra, when: str) -> None:
        """A sign-in that is, or was to be, kept in memory is not lost to a keyring that turns up locked."""
        ring = TurnsUpLocked()
        entra.refuse_reuse = True
        vault = Vault(first.state_folder, Keys(None, environ={}, ring=ring), first.timeout)
        worker = Service(vault, Providers(lambda: Provider(first.ca), lambda: OAuth2(first.ca)))
        line = browse(entra)
        page = line.before

        def turn_up(prompt: Prompt) -> None:
            ring.there = when == "during a sign-in"
            page(prompt)

        line.before = turn_up
        signed_in = worker.sign_in(SignIn(1, grant, "browser"), line)
        ring.there = True
        outcomes = [signed_in, *(worker.acquire(grant, SCOPES) for _ in range(2))]

        assert ["granted"] * 3 == [kind(outcome) for outcome in outcomes]
        assert worker.stays

    def test_memory_that_will_not_do(self, first: Open, grant: Grant, entra: Entra) -> None:
        """A worker that is about to end begins no sign-in that only its memory would hold; with a key it does."""
        line = browse(entra)
        outcome = self.sign_in(replace(first, key=None, persist=True), grant, line)
        assert isinstance(outcome, Transient)
        assert ("storage", []) == (outcome.trouble.kind, line.prompted)
        assert "Vault(key=" in outcome.trouble.hint

        assert "granted" == kind(self.sign_in(replace(first, persist=True), grant, line))

    def test_a_full_disk_is_known_before_the_prompt(
        self, first: Open, grant: Grant, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """cms refuses before the person signs in, and leaves no mark of a redemption."""

        def full(*_args: object) -> None:
            raise OSError(28, "No space left on device")

        line = Answers()
        with monkeypatch.context() as patched:
            patched.setattr(os, "posix_fallocate", full)
            assert "storage" == kind(self.sign_in(first, grant, line))
        assert [] == line.prompted
        self.sign_in(first, grant, Answers(None))

        assert not list(Path(first.state_folder).glob("*.redeeming"))

    def test_nothing_secret_stays(self, first: Open, grant: Grant, entra: Entra, state: Path) -> None:
        """Between two questions the worker holds neither a refresh token nor what it was derived from."""
        worker = service(first)
        worker.sign_in(SignIn(1, grant, "browser"), browse(entra))
        worker.acquire(grant, SCOPES)
        worker.rest()

        assert not worker.stays

    def test_two_scope_sets(self, first: Open, grant: Grant, entra: Entra) -> None:
        """Each scope set gets a separate token from one sign-in; a refusal of one leaves the other."""
        graph = ("https://graph.microsoft.com/Mail.Send",)
        grant = replace(grant, scope_sets=(SCOPES, graph))
        self.sign_in(first, grant, browse(entra))
        entra.withdraw_consent(ANN, graph[0])

        assert "granted" == kind(service(first).acquire(grant, SCOPES))
        refused = service(first).acquire(grant, graph)
        assert isinstance(refused, Refused)
        assert 65001 == refused.trouble.aadsts


APP_SCOPES = ("https://outlook.office365.com/.default",)


@pytest.fixture
def app(entra: Entra, tmp_path: Path) -> Grant:
    """An application that signs in by itself, with a secret."""
    entra.register(Client(APP_ID, (), secret=APP_SECRET, mailboxes=(ANN,)))
    source = Source("file", (str(write_private(tmp_path / "secret", APP_SECRET)),))
    return Grant(f"{entra.authority}/{TENANT}", APP_ID, "", (APP_SCOPES,), sign_in="app", client_secret=source)


class TestApplications:
    """The tokens of what signs in without a person are stored too, if there is a key: and nothing depends on that."""

    def test_a_stored_token_is_taken(self, first: Open, app: Grant, entra: Entra) -> None:
        """After a restart, also while Entra cannot be reached; by who has it, it is not."""
        asked = granted(service(first).acquire(app, APP_SCOPES, ""))
        entra.go_down()
        taken = granted(service(first).acquire(app, APP_SCOPES, ""))

        assert (asked.secret, asked.scopes, asked.expires_in) == (taken.secret, taken.scopes, taken.expires_in)
        assert 0.0 < taken.sign_in.redeemed_at <= time.time()
        assert asked.sign_in == replace(taken.sign_in, redeemed_at=0.0)
        assert "network" == kind(service(first).acquire(app, APP_SCOPES, token_hash(asked.secret)))

    def test_it_is_no_sign_in(self, first: Open, app: Grant, entra: Entra, state: Path) -> None:
        """A person who signs in to the same application is another grant; in neither's place is the other's file good."""
        person = replace(app, sign_in="browser")
        service(first).acquire(app, APP_SCOPES, "")
        assert "no-sign-in" == kind(service(first).acquire(person, APP_SCOPES, ""))
        stored = state / f"{app.key}.vault"
        stored.rename(state / f"{person.key}.vault")

        assert "vault-damaged" == kind(service(first).acquire(person, APP_SCOPES, ""))
        granted(service(first).acquire(app, APP_SCOPES, ""))
        assert 2 == entra.count("token")

    def test_a_refused_token_is_deleted(self, first: Open, app: Grant, entra: Entra) -> None:
        """Before the next one is asked for."""
        held = token_hash(granted(service(first).acquire(app, APP_SCOPES, "")).secret)
        entra.go_down()

        assert ["network"] * 2 == [
            kind(service(first).acquire(app, APP_SCOPES, *names)) for names in ((held, held), ("",))
        ]

    def test_after_a_refusal_it_is_doubtful(self, first: Open, app: Grant, entra: Entra) -> None:
        """The daemon asks at once. Without a token, a refusal leaves nothing behind."""
        entra.faults.add(Fault("aadsts", aadsts=7000222))
        assert "application" == kind(service(first).acquire(app, APP_SCOPES, ""))
        assert not list(Path(first.state_folder).glob("*.vault"))
        asked = granted(service(first).acquire(app, APP_SCOPES, ""))
        entra.faults.add(Fault("aadsts", aadsts=7000222))
        assert "application" == kind(service(first).acquire(app, APP_SCOPES, token_hash(asked.secret)))
        taken = granted(service(first).acquire(app, APP_SCOPES, ""))

        assert (asked.secret, True) == (taken.secret, taken.doubtful)

    @pytest.mark.parametrize("key", [None, Source("memory"), Source("file", ("/proc/nowhere",))], ids=str)
    def test_without_a_key_it_is_asked_for_anew(
        self, first: Open, app: Grant, entra: Entra, state: Path, key: Source | None
    ) -> None:
        """Nothing is stored, and the worker need not stay for it."""
        worker = service(replace(first, key=key))

        assert ["granted"] * 2 == [kind(worker.acquire(app, APP_SCOPES, "")) for _ in range(2)]
        assert (2, [], False) == (entra.count("token"), list(state.glob("*.vault")), worker.stays)

    def test_a_vault_that_fails_is_no_reason(self, first: Open, app: Grant, state: Path) -> None:
        """Whatever lies there in place of the file, or of the folder."""
        state.mkdir(mode=0o700)
        (state / f"{app.key}.vault").write_bytes(b"nonsense")
        assert "granted" == kind(service(first).acquire(app, APP_SCOPES, "", "0" * 16))
        state.rename(state.with_name("aside"))
        state.write_bytes(b"")

        assert "granted" == kind(service(first).acquire(app, APP_SCOPES, "", "0" * 16))


def test_a_changed_secret_deletes_an_applications_token(first: Open, app: Grant, entra: Entra, tmp_path: Path) -> None:
    """One that cannot be read now is not changed."""
    asked = granted(service(first).acquire(app, APP_SCOPES, ""))
    entra.go_down()
    (tmp_path / "secret").unlink()
    assert asked.secret == granted(service(first).acquire(app, APP_SCOPES, "")).secret
    write_private(tmp_path / "secret", "another")
    assert "network" == kind(service(first).acquire(app, APP_SCOPES, ""))
    write_private(tmp_path / "secret", APP_SECRET)

    assert "network" == kind(service(first).acquire(app, APP_SCOPES, ""))


class TestOtherProviders:
    """A provider that is not Microsoft, by the same vault."""

    @pytest.fixture
    def strict(self) -> Iterator[Issuer]:
        with Issuer(strict_habits(), [ANN, BEN]) as running:
            yield running

    @pytest.fixture
    def opened(self, state: Path, strict: Issuer) -> Open:
        return Open(str(state), Source("file", (str(state.parent / "vault.key"),)), ca=strict.ca_file)

    def sign_in(self, opened: Open, strict: Issuer, user: str = ANN) -> Outcome:
        answers = Answers()
        answers.before = lambda prompt: answers.fields.append(strict.sign_in(prompt.url, user, follow=False).fields)
        return service(opened).sign_in(SignIn(1, strict_grant(strict), "browser"), answers)

    def acquire(self, opened: Open, strict: Issuer) -> Outcome:
        grant = strict_grant(strict)
        return service(opened).acquire(grant, grant.scope_sets[0])

    def test_rotation(self, opened: Open, strict: Issuer) -> None:
        """Each process redeems what the one before it was given; another person's sign-in changes nothing."""
        assert ANN == granted(self.sign_in(opened, strict)).sign_in.who
        assert ["granted"] * 3 == [kind(self.acquire(opened, strict)) for _ in range(3)]
        assert "wrong-user" == kind(self.sign_in(opened, strict, BEN))

        assert "granted" == kind(self.acquire(opened, strict))

    def test_a_lost_answer_explains_the_refusal(self, opened: Open, strict: Issuer, state: Path) -> None:
        """The second try, a moment later, meets a server that takes it for theft: that is said, and remembered."""
        self.sign_in(opened, strict)
        strict.faults.add(Fault("reset", after=True))
        refused = self.acquire(opened, strict)
        again = self.acquire(opened, strict)

        assert isinstance(refused, Refused)
        assert isinstance(again, Refused)
        assert ("reused", "reused") == (refused.trouble.kind, again.trouble.kind)
        assert "successor was lost after cms had redeemed it" in refused.trouble.message
        assert f"`cms login {ANN}`" in refused.trouble.hint
        assert 1 == len(list(state.glob("*.redeeming")))
        assert "granted" == kind(self.sign_in(opened, strict))
        assert "granted" == kind(self.acquire(opened, strict))

    def test_a_sign_out_that_ends_the_sign_in(self, opened: Open, strict: Issuer, state: Path) -> None:
        """First there, then here: a copy of what was stored is worth nothing."""
        self.sign_in(opened, strict)
        (stored,) = state.glob("*.vault")
        copy = stored.read_bytes()
        key = Path(opened.key.value[0] if opened.key else "").read_bytes()
        outcome = granted(service(opened).sign_out(strict_grant(strict), revoke=True))

        assert ("", True) == (outcome.secret, outcome.sign_in.persisted)
        assert [] == list(state.glob("*.vault"))
        assert 1 == strict.count("revoke", status=200)
        stored.write_bytes(copy)
        write_private(state.parent / "vault.key", key.decode())
        assert "refused" == kind(self.acquire(opened, strict))

    def test_a_sign_in_that_cannot_be_ended_stays(self, opened: Open, strict: Issuer, state: Path) -> None:
        """While the server is down it could not be ended without what is stored; the person decides."""
        self.sign_in(opened, strict)
        strict.go_down()
        failed = service(opened).sign_out(strict_grant(strict), revoke=True)
        strict.come_up()

        assert isinstance(failed, Transient)
        assert "network" == failed.trouble.kind
        assert (
            f"try again: `cms logout {ANN} --revoke`; or `cms logout {ANN}`, which tells the provider"
            in failed.trouble.hint
        )
        assert "granted" == kind(self.acquire(opened, strict))
        assert "granted" == kind(service(opened).sign_out(strict_grant(strict), revoke=True))
        assert "no-sign-in" == kind(self.acquire(opened, strict))

    def test_nothing_to_end(self, opened: Open, strict: Issuer) -> None:
        """Nobody is asked, and that nothing was there is said."""
        outcome = granted(service(opened).sign_out(strict_grant(strict), revoke=True))

        assert not outcome.sign_in.persisted
        assert 0 == len(strict.requests)

    def test_a_secret_that_cannot_be_read_ends_nothing(self, opened: Open, strict: Issuer, tmp_path: Path) -> None:
        """The application could not say who it is."""
        self.sign_in(opened, strict)
        missing = replace(strict_grant(strict), client_secret=Source("file", (str(tmp_path / "missing"),)))
        failed = service(opened).sign_out(missing, revoke=True)

        assert isinstance(failed, Transient)
        assert failed.trouble.message.startswith("the client secret cannot be read")
        assert 0 == strict.count("revoke")
        assert "granted" == kind(self.acquire(opened, strict))

    def test_a_service_account(self, opened: Open, tmp_path: Path) -> None:
        """A refusal asks no person to sign in, and cms looks again by itself."""
        with Issuer(google_habits(), [ANN]) as google:
            pair = KeyPair()
            google.trust(ServiceAccount("robot@x.example", pair.public_key, ("example.test",), (GOOGLE_MAIL,)))
            found = {"type": "service_account", "client_email": "robot@x.example", "private_key_id": "1"}
            file = write_private(tmp_path / "robot.json", json.dumps(found | {"private_key": pair.private_key}))
            source = Source("file", (str(file),))
            grant = google_grant(google, sign_in="app", client_secret=source)
            worker = service(replace(opened, ca=google.ca_file))
            foreign = worker.acquire(replace(grant, login="x@other.example"), (GOOGLE_MAIL,))

            assert ANN == google.introspect(granted(worker.acquire(grant, (GOOGLE_MAIL,))).secret)["email"]
            assert isinstance(foreign, Refused)
            assert ("application", True) == (foreign.trouble.kind, foreign.again_in > 0)
            assert "cms login" not in foreign.trouble.hint
            # An address that was only tried leaves nothing behind.
            unknown = worker.acquire(replace(grant, login="made-up@example.test"), (GOOGLE_MAIL,))
            assert isinstance(unknown, Refused)
            assert "invalid_grant" == unknown.trouble.error
            assert {grant.key, "key"} >= {each.stem for each in Path(opened.state_folder).glob("*.lock")}
