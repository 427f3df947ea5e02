"""Answers the worker's questions about a grant, using the vault and the provider.

The order ensures that no refresh token is lost: lock the grant, read it, choose where its successor goes and reserve
space there, redeem it, store the successor, and only then answer. Every result is an outcome.
"""

from __future__ import annotations

import gc
import queue
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from cms.core import refusals
from cms.core.accounts import Grant, Scopes
from cms.core.forecast import ending_of, remember
from cms.core.lifecycle import Granted, Outcome, Refused, SignInFacts, Transient, Trouble, token_hash
from cms.grants import credentials, housekeeping, wording
from cms.grants.credentials import Credential
from cms.grants.messages import Acquire, Ended, Import, Look, Looked, Place, Prompt, SignIn, SignOut, Told, Work
from cms.grants.network.deadline import within
from cms.grants.providers import CodeFlow, ExchangeEnd, Flow, Providers, WindowFlow, no_sign_in, wanted
from cms.grants.secret_sources import Unavailable
from cms.grants.sign_out import sign_out
from cms.grants.stores import Elsewhere, Held, SharedStore, Stores
from cms.grants.transfer import export_file, find
from cms.grants.transfer.formats import Unfit
from cms.grants.vault.entry_file import Entry
from cms.grants.vault.store import Stored, Vault
from cms_oauth.frozen import dataclass

# How long another host is waited for that redeems the sign-in, within messages.QUESTION_SECONDS, and between two looks.
ELSEWHERE_SECONDS = 20.0
ELSEWHERE_PAUSE = 0.25
# In how many seconds a token is asked for again that another host is about to replace.
ELSEWHERE_REFRESH = 30.0

_CUT_OFF = "cms was interrupted after redeeming {} and before storing its successor"
_LOST = "the provider's answer with its successor was lost after cms had redeemed {}"

# The entry that stores a challenge before the first sign-in, and the tokens of an application, which has none.
_NO_SIGN_IN = Entry("", "", "", 0.0)


class Cancelled(Exception):
    """The sign-in was cancelled."""


class Conversation:
    """What the thread of a sign-in says to a person, by way of the main loop: prompts out, what the browser brought in.

    The sign-in calls `prompt`, `wait` and `check`; the main loop calls `redirected` and `cancel`.
    """

    def __init__(self, send: Callable[[Prompt], None]) -> None:
        self._send = send
        self._cancelled = threading.Event()
        # None wakes a sign-in that waits while it is cancelled.
        self._inbox: queue.SimpleQueue[Mapping[str, str] | None] = queue.SimpleQueue()

    def prompt(self, prompt: Prompt) -> None:
        """Show the person what to do."""
        self._send(prompt)

    def wait(self, seconds: float) -> Mapping[str, str] | None:
        """Return what the browser brought, or None after that many seconds. Raises Cancelled."""
        try:
            fields = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            return None
        self.check()
        return fields

    def check(self) -> None:
        """Raise Cancelled if the sign-in was cancelled."""
        if self._cancelled.is_set():
            raise Cancelled

    def redirected(self, fields: Mapping[str, str]) -> None:
        """Hand over what the browser brought."""
        self._inbox.put(fields)

    def cancel(self) -> None:
        """Cancel the sign-in."""
        self._cancelled.set()
        self._inbox.put(None)


@dataclass(frozen=True, slots=True)
class _Room:
    """What a new sign-in starts from: its place, the subject of the one before ("" for none), a challenge to be met."""

    place: Stored
    account: str
    claims: str


class Service:
    """Answers questions, each in the calling thread. It holds no grant between two questions."""

    def __init__(
        self,
        vault: Vault,
        providers: Providers,
        clock: Callable[[], float] = time.monotonic,
        *,
        persist: bool = False,
        shared: SharedStore | None = None,
    ) -> None:
        self._persist = persist
        self._stores = Stores(vault, shared)
        # A process that ends with its command does not listen.
        self._unheard = None if persist else shared
        self._providers = providers
        self._clock = clock

    @property
    def stays(self) -> bool:
        """True if this process must not exit."""
        return self._stores.stays

    def listen(self, tell: Callable[[Told], None]) -> None:
        """Tell what other hosts of the fleet do from now on; without a fleet, or twice, do nothing. Does not wait."""
        shared, self._unheard = self._unheard, None
        if shared:
            shared.listen(tell)

    def rest(self) -> None:
        """Free connections and memory while there is nothing to do: MSAL's apps are cycles that hold their cache."""
        self._providers.rest()
        if self._stores.shared:
            self._stores.shared.rest()
        gc.collect()

    def answer(self, question: Work) -> Ended:
        """Answer a question that needs no person."""
        match question:
            case Acquire():
                return self.acquire(
                    question.grant, question.scopes, question.held, question.rejected, wanted=question.wanted
                )
            case Look():
                return self._look(question.grant, question.scopes, question.held)
            case SignOut():
                return self.sign_out(question.grant, revoke=question.revoke)
            case Import():
                return self._import(question)
            case _:
                return housekeeping.answer(self._stores, self._providers, question)

    def acquire(
        self, grant: Grant, scopes: Scopes, known: str | None = None, rejected: str = "", *, wanted: bool = False
    ) -> Outcome:
        """Return a stored token, or redeem the grant for one, as `Acquire` says: `known` is its `held`.

        The grant's successor is stored before this returns.
        """
        until = self._clock() + ELSEWHERE_SECONDS
        try:
            if grant.unattended:
                return self._request_token(grant, scopes, known, rejected)
            while True:
                with suppress(Elsewhere):
                    return self._acquire(grant, scopes, known, rejected, wanted=wanted)
                if self._clock() >= until:
                    return Transient(wording.ELSEWHERE)
                time.sleep(ELSEWHERE_PAUSE)
        except Unavailable as unavailable:
            return unavailable.outcome

    def _acquire(self, grant: Grant, scopes: Scopes, known: str | None, rejected: str, *, wanted: bool) -> Outcome:
        """Do what `acquire` does, once. Raises Elsewhere if there is no token until another host has redeemed the grant."""
        with self._stores.of(grant).hold(grant, scopes) as held:
            entry = held.read()
            if entry is None:
                return Refused(no_sign_in(grant))
            if taken := _taken(held, grant, known, rejected, wanted=wanted):
                return _known(taken, held, entry)
            if held.refusal:
                return held.refusal
            credential = credentials.credential(grant)
            held.prepare()
            try:
                until = held.claim()
            except Elsewhere:
                taken = None if rejected else _taken(held, grant, "", "")
                if taken is None:
                    raise
                return _known(replace(taken, refresh_in=ELSEWHERE_REFRESH), held, entry)
            with within(until):
                return self._redeem(held, grant, scopes, entry, credential)

    def _look(self, grant: Grant, scopes: Scopes, known: str) -> Outcome | Looked:
        """Return what another host has done, as `Look` says. No other host changes this host's own files."""
        if self._stores.of(grant) is self._stores.vault:
            return Looked(0.0)
        try:
            with self._stores.of(grant).hold(grant, scopes) as held:
                entry = held.read()
                if entry is None:
                    return Refused(no_sign_in(grant))
                if taken := _taken(held, grant, known, ""):
                    return _known(taken, held, entry)
                return held.refusal or Looked(entry.signed_in, held.wished, held.stored.shared)
        except Unavailable as unavailable:
            return unavailable.outcome

    def _request_token(self, grant: Grant, scopes: Scopes, known: str | None, rejected: str) -> Outcome:
        """Get a token for an application or a machine. The vault may have one, but this works without vault and key."""
        with suppress(Unavailable), self._stores.vault.hold(grant, scopes) as held:
            held.read()
            if taken := _taken(held, grant, known, rejected):
                return taken
        credential = credentials.credential(grant)
        outcome = self._providers.of(grant).mint(grant, scopes, credential.value)
        self._keep_token(grant, scopes, outcome, credential.fingerprint)
        return credentials.explain(credential.behind(outcome), grant)

    def _keep_token(self, grant: Grant, scopes: Scopes, outcome: Outcome, proof: str) -> None:
        """Store the token that an application or a machine was given, or that it was refused another."""
        with suppress(Unavailable), self._stores.vault.hold(grant, scopes) as held:
            held.inspect()
            granted = outcome if isinstance(outcome, Granted) else None
            refused = isinstance(outcome, Refused) and held.mark_refused()
            # In memory it would keep this process from exiting, and nothing is lost without it.
            if (granted or refused) and held.prepare().persisted:
                held.store(_NO_SIGN_IN, granted, proof)
            elif not granted:
                self._stores.vault.tidy(grant.key)

    def _redeem(self, held: Held, grant: Grant, scopes: Scopes, entry: Entry, credential: Credential) -> Outcome:
        """Redeem a grant that is prepared and claimed. Raises Elsewhere if it was signed out or in anew meanwhile."""
        answer = self._providers.of(grant).redeem(
            grant, scopes, entry.cache, entry.home_account_id, who=entry.who, secret=credential.value
        )
        stored = held.stored
        # A successor is stored even if nothing else in the answer can be used.
        rotated = answer.cache not in ("", entry.cache)
        granted = answer.outcome if isinstance(answer.outcome, Granted) else None
        if rotated:
            stored = held.store(_renewed(entry, answer), granted, credential.fingerprint)
        elif not answer.unsure:
            if granted:
                # Without a successor, nothing is lost that the stored refresh token would not give again.
                with suppress(Unavailable):
                    stored = held.store(_renewed(entry, answer), granted, credential.fingerprint)
            else:
                if isinstance(answer.outcome, Refused) and refusals.ends_the_sign_in(answer.outcome, grant):
                    held.refused_for_good(answer.outcome.trouble)
                _note_ending(held, grant, entry, answer.outcome)
            held.release()
        return credential.behind(_explained(_told(answer.outcome, stored, entry), held, grant, lost=answer.unsure))

    def sign_out(self, grant: Grant, *, revoke: bool = False) -> Outcome:
        """Delete the stored sign-in, with the last one the key too. With `revoke` it ends at the provider first, or stays."""
        return sign_out(self._stores, self._providers, grant, revoke=revoke)

    def _import(self, question: Import) -> Outcome:
        """Take over another program's sign-in: redeem it here, and store its successor."""
        try:
            ours = question.place.source == export_file.SOURCE
            outcome = self._restore(question) if ours else self._adopt(question.grant, question.place)
        except find.NoPassword:
            return Refused(Trouble("password", f"the sign-in in {question.place.path} is encrypted with a password"))
        except Unfit as unfit:
            return Refused(Trouble("unfit", unfit.message, unfit.hint))
        except Unavailable as unavailable:
            outcome = unavailable.outcome
        return refusals.in_person(outcome, "import again")

    def _adopt(self, grant: Grant, place: Place) -> Outcome:
        room = self._prepared(grant)
        found = find.find(place, grant)
        credential = credentials.credential(grant)
        answer = self._providers.of(grant).adopt(grant, found.refresh_token, credential.value, room.account)
        return wording.of_another_program(self._keep(grant, answer, room.place, credential), found, grant)

    def _restore(self, question: Import) -> Outcome:
        """Take over a sign-in from another machine: redeem it now, which verifies it, and store its successor."""
        grant, found = question.grant, find.exported(question.place)
        entry = next((each.entry for each in found if each.grant.key == grant.key), None)
        if entry is None:
            return Refused(Trouble("unfit", f"{question.place.path} has no sign-in of {grant.login or 'this account'}"))
        self._prepared(grant)
        scopes, _ = wanted(grant)
        with self._stores.of(grant).hold(grant, scopes) as held:
            # A store has to know what it replaces before anything is redeemed.
            there = held.inspect()
            if question.keep and there:
                return Refused(Trouble("signed-in", f"{grant.login or entry.who} is signed in already"))
            held.prepare()
            credential = credentials.credential(grant)
            answer = self._providers.of(grant).redeem(
                grant, scopes, entry.cache, entry.home_account_id, who=entry.who, secret=credential.value
            )
            granted = answer.outcome if isinstance(answer.outcome, Granted) else None
            # A successor that came without a token replaces no sign-in that works.
            if not granted and (not answer.cache or there):
                held.release()
                return answer.outcome
            entry = _renewed(entry, answer)
            return _told(answer.outcome, held.store(entry, granted, credential.fingerprint), entry)

    def sign_in(self, question: SignIn, conversation: Conversation) -> Outcome:
        """Sign a person in and store the sign-in."""
        grant = question.grant
        try:
            outcome = self._sign_in(question, conversation)
        except Unavailable as unavailable:
            outcome = unavailable.outcome
        except Cancelled:
            return Refused(Trouble("cancelled", "the sign-in was cancelled", refusals.hint("again: {login}", grant)))
        if isinstance(outcome, Granted):
            return outcome
        self._note_claims(grant, outcome)
        return refusals.in_person(outcome, refusals.hint("start again: {login}", grant))

    def _sign_in(self, question: SignIn, conversation: Conversation) -> Outcome:
        grant = question.grant
        if question.method == "broker" and self._stores.of(grant) is self._stores.shared:
            return Refused(wording.for_this_device_only(grant))
        # Make sure that the sign-in can be stored before a person is asked to do anything.
        room = self._prepared(grant)
        credential = credentials.credential(grant)
        # The daemon may not know the challenge: another process may have got the refusal.
        claims = question.claims or room.claims
        flow = self._providers.of(grant).begin(grant, question.method, claims, credential.value, room.account)
        if isinstance(flow, Transient | Refused | Granted):
            return flow
        conversation.check()
        begun = (flow.url, flow.user_code, flow.expires_in, flow.redirect_uri, flow.state, flow.complete_url)
        conversation.prompt(Prompt(question.number, question.method, *begun))
        answer = _finish(grant, flow, conversation, self._clock)
        return credential.behind(self._keep(grant, answer, room.place, credential, conversation))

    def _note_claims(self, grant: Grant, outcome: Outcome) -> None:
        """Store the challenge that a sign-in was refused with."""
        if not isinstance(outcome, Refused) or not outcome.trouble.claims:
            return
        # If it cannot be stored, the next sign-in is refused once more.
        with suppress(Unavailable), self._stores.of(grant).hold(grant) as held:
            entry = held.inspect()
            if held.interrupted or held.damaged:
                return
            # A challenge alone is not kept in memory, which would keep this process from exiting.
            if held.prepare().persisted or entry:
                entry = entry or _NO_SIGN_IN
                _keep_beside(held, replace(entry, claims=held.claims), replace(entry, claims=outcome.trouble.claims))
            held.release()

    def _prepared(self, grant: Grant) -> _Room:
        """Return what a new sign-in starts from, after making sure that it can be stored. Raises Unavailable."""
        with self._stores.of(grant).hold(grant) as held:
            remembered = held.inspect()
            place = held.prepare()
            held.release()
        if self._persist and not place.persisted:
            raise Unavailable(Transient(wording.NOWHERE))
        return _Room(place, remembered.home_account_id if remembered else "", held.claims)

    def _keep(
        self,
        grant: Grant,
        answer: ExchangeEnd,
        place: Stored,
        credential: Credential,
        conversation: Conversation | None = None,
    ) -> Outcome:
        """Store a new sign-in, in `place` or a better one. Raises `Cancelled` if it was cancelled in the meantime."""
        if not isinstance(answer.outcome, Granted):
            return answer.outcome
        now = time.time()
        entry = Entry(answer.cache, answer.subject, answer.who, now, redeemed=now, ends=answer.outcome.sign_in.ends_at)
        with self._stores.of(grant).hold(grant, wanted(grant)[0]) as held:
            remembered = held.inspect()
            if remembered and remembered.home_account_id != entry.home_account_id:
                return Refused(wording.another_account(grant, remembered.who, entry.who))
            if remembered:
                entry = replace(entry, endings=remembered.endings)
            if conversation:
                conversation.check()
            held.prepare(memory_will_do=not place.persisted)
            return _told(answer.outcome, held.store(entry, answer.outcome, credential.fingerprint), entry)


def _finish(grant: Grant, flow: Flow, conversation: Conversation, clock: Callable[[], float]) -> ExchangeEnd:
    """Wait for the person, and redeem what the browser brings."""
    if isinstance(flow, WindowFlow):
        return flow.answered(conversation.wait)
    if isinstance(flow, CodeFlow):
        fields = conversation.wait(flow.expires_in)
        return ExchangeEnd(Refused(wording.expired(grant))) if fields is None else flow.finish(fields)
    deadline = clock() + flow.expires_in
    while (pause := flow.interval) < deadline - clock():
        conversation.wait(pause)
        answer = flow.poll()
        if answer:
            expired = isinstance(answer.outcome, Refused) and answer.outcome.trouble.kind == "expired"
            return ExchangeEnd(Refused(wording.expired(grant, device=True))) if expired else answer
    conversation.wait(deadline - clock())
    return ExchangeEnd(Refused(wording.expired(grant, device=True)))


def _renewed(entry: Entry, answer: ExchangeEnd) -> Entry:
    """Return the entry after a redemption. A token meets any challenge; not every answer says when the sign-in ends."""
    entry = replace(entry, cache=answer.cache or entry.cache)
    if not isinstance(answer.outcome, Granted):
        return entry
    return replace(entry, redeemed=time.time(), claims="", ends=answer.outcome.sign_in.ends_at or entry.ends)


def _taken(held: Held, grant: Grant, known: str | None, rejected: str, *, wanted: bool = False) -> Granted | None:
    """Return a stored token, after deleting one that is refused, or that the application's former secret gave."""
    if rejected:
        held.withdraw(rejected)
    found = None if known is None else held.minted(known, wanted=wanted)
    if found is None:
        return None
    (granted, proof), credential = found, None
    # The token is good without it.
    with suppress(Unavailable):
        credential = credentials.credential(grant)
    if credential and credential.fingerprint != proof:
        held.withdraw(token_hash(granted.secret))
        return None
    expires = credential.expires if credential else 0.0
    return replace(granted, sign_in=replace(granted.sign_in, credential_expires=expires))


def _known(taken: Granted, held: Held, entry: Entry) -> Outcome:
    """Return a stored token with the facts about its sign-in."""
    facts = replace(taken.sign_in, who=entry.who, redeemed_at=entry.redeemed)
    return _told(replace(taken, sign_in=facts), held.stored, entry)


def _told(outcome: Outcome, stored: Stored, entry: Entry) -> Outcome:
    """Return the outcome with the facts about the sign-in that was redeemed."""
    match outcome:
        case Granted():
            known = entry.facts(outcome.sign_in)
            known = replace(known, persisted=stored.persisted, key_from=stored.key_from, shared=stored.shared)
            refresh_in = outcome.refresh_in if stored.refresh_in is None else stored.refresh_in
            return replace(outcome, sign_in=known, refresh_in=refresh_in)
        case Transient():
            return replace(outcome, sign_in=entry.facts(SignInFacts(redeemed_at=entry.redeemed)))
    return outcome


def _note_ending(held: Held, grant: Grant, entry: Entry, outcome: Outcome) -> None:
    """Store when and why a sign-in ended, for the forecast of the next, and a challenge that the next must meet.

    An ending after a redemption that was cut off is left out of the forecast: the cut may be its cause.
    """
    if not isinstance(outcome, Refused) or held.interrupted:
        return
    endings = remember(entry.endings, ending_of(grant.provider, entry.signed_in, time.time(), outcome.trouble))
    known = replace(entry, endings=endings, claims=outcome.trouble.claims or entry.claims)
    _keep_beside(held, entry, known, news=held.mark_refused())


def _keep_beside(held: Held, entry: Entry, known: Entry, *, news: bool = False) -> None:
    """Store facts about a sign-in if they have changed. If the disk is full, only these facts are lost."""
    if news or known != entry:
        with suppress(Unavailable):
            held.store(known)


def _explained(outcome: Outcome, held: Held, grant: Grant, *, lost: bool) -> Outcome:
    """Explain a refusal that may follow from a redemption that was cut off, or whose answer was `lost` a moment ago.

    A provider may take a refresh token that was used before for a stolen one, end the sign-in, and give other reasons
    from then on.
    """
    if not isinstance(outcome, Refused) or not (held.interrupted or lost):
        return outcome
    trouble, cause = outcome.trouble, _LOST if lost else _CUT_OFF
    of_reuse = refusals.may_be_of_reuse(trouble, grant)
    if not of_reuse and not held.reused:
        message = f"{trouble.message}; earlier, {cause.format('a refresh token')}"
        return replace(outcome, trouble=replace(trouble, message=message))
    held.remember_reuse()
    return Refused(
        replace(
            trouble,
            kind="reused",
            message="the refresh token was refused, most likely because it was used before: "
            f"{cause.format('it')} ({trouble.message})",
            hint=refusals.hint("sign in again: {login}", grant) if of_reuse else trouble.hint,
        )
    )
