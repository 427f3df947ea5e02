"""Daemon side of export, import, prune, rekey and `logout --all`: the commands that concern the whole vault.

Secrets stay in the worker; only encrypted exports, and the passphrase that a person types, pass through here. `Ask` puts
questions to the person who gives the command, and reports to them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cms.config.model import Config
from cms.core.accounts import (
    Account,
    Grant,
    StoredSignIn,
    accounts_meant,
    domain_of,
    is_named,
    to_type,
    users_in_words,
    users_to_type,
)
from cms.core.lifecycle import Granted, Refused, Transient
from cms.daemon.control.answers import Ask, Result, ended, question, told
from cms.daemon.control.sign_out_words import SignedOut, key_gone, signed_out
from cms.daemon.registry import Registry
from cms.daemon.worker import Worker
from cms.grants.messages import (
    KEPT_BY_MS_BROKER,
    Delete,
    Ended,
    Export,
    Exported,
    Listed,
    Peek,
    Place,
    Rekey,
    Rekeyed,
    Survey,
)
from cms.system.logs import get_logger
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import CLOUDS
from cms_oauth.providers import DYNAMIC, MICROSOFT, OWN, provider_of
from cms_oauth.text import printable

log = get_logger()

# The `Place.source` of an export made by cms.
OURS = "cms"


# How long the stored token of a mailbox stays that no program asks for, in seconds: one lives for an hour, seldom for a day.
KEPT_SECONDS = 24 * 60 * 60.0

_STAYS_VALID = (
    "The sign-in on the other machine keeps working: using it here does not end it there. "
    "To end it there, run `cms logout` on that machine. Then delete the file."
)
# Where a refresh token works once. To end the sign-in at its provider would end it here too.
_MOVED = (
    "Where a sign-in is used on one machine only, run `cms logout` on the other machine now, without --revoke: used there "
    "once more, it may end here. Then delete the file."
)


@dataclass(frozen=True, slots=True)
class Deleted:
    """The stored sign-ins that have been deleted, and the worker's answer."""

    items: tuple[StoredSignIn, ...]
    end: Granted

    def __str__(self) -> str:
        return f"deleted: {len(self.items)}{key_gone(self.end.sign_in.key_from)}"


class VaultCommands:
    """The commands that concern the whole vault.

    Three kinds of stored sign-ins have no keeper. Those of *closed* mailboxes are tokens of an account for every address of
    a domain, for addresses that no program has asked for in a day: `look` deletes old ones. An *unlisted* one has no account
    in the configuration: `cms prune` deletes it. An *unserved* one has an account, but no socket or file serves it: only a
    sign-out deletes it. `unlisted` are the unlisted ones that the last `look` found.
    """

    def __init__(self, worker: Worker, registry: Registry, state_folder: str) -> None:
        self.unlisted: tuple[StoredSignIn, ...] = ()
        self._worker = worker
        self._registry = registry
        self._folder = Path(state_folder)

    # Stored sign-ins without a keeper.

    async def look(self) -> tuple[StoredSignIn, ...]:
        """Find the unlisted sign-ins, remember and return them. The worker is asked only if there is one.

        Old tokens of closed mailboxes are deleted.
        """
        found = await self._stored(unserved=False)
        if found is None:
            return ()
        closed = [each for each in found if _is_closed(each, self._registry.config)]
        self.unlisted = tuple(each for each in found if each not in closed)
        await self._forget(each for each in closed if self.stored_at(each.key) < time.time() - KEPT_SECONDS)
        return self.unlisted

    async def _forget(self, items: Iterable[StoredSignIn]) -> Ended | None:
        """Delete the stored tokens of mailboxes that are still closed; return the worker's answer, None if there are none."""
        open_ = self._registry.names
        keys = tuple(each.key for each in items if each.key not in open_)
        return await self._worker.housekeeping(lambda number: Delete(number, keys)) if keys else None

    async def forget_closed(self) -> Result | None:
        """Delete the stored tokens of all closed mailboxes; return why that failed, None if it did not."""
        stored = await self._stored(unserved=True) or ()
        end = await self._forget(each for each in stored if _is_closed(each, self._registry.config))
        return None if end is None or isinstance(end, Granted) else _failed(end)

    async def _stored(self, *, unserved: bool) -> tuple[StoredSignIn, ...] | None:
        """Return the unlisted sign-ins, and the unserved ones if asked for; None if the folder cannot be read."""
        try:
            keys = self._keys(unserved=unserved)
        except OSError as error:
            # The daemon goes on, as it does if the worker does not answer.
            log.warning("the state folder cannot be read", reason=str(error))
            return None
        found = await self._worker.housekeeping(lambda number: Survey(number, keys)) if keys else Listed(())
        # If the worker does not say whose they are, at least report that they exist.
        return found.items if isinstance(found, Listed) else tuple(StoredSignIn(key, "", "", "") for key in keys)

    def _keys(self, *, unserved: bool) -> tuple[str, ...]:
        known = set(self._registry.names)
        if not unserved:
            known.update(self._registry.config.unserved)
        return tuple(sorted(path.stem for path in self._folder.glob("*.vault") if path.stem not in known))

    def stored_at(self, key: str) -> float:
        """Return when the sign-in of the grant with this key was last stored, as Unix time, 0 for never."""
        try:
            return (self._folder / f"{key}.vault").stat().st_mtime
        except OSError:
            return 0.0

    async def named(self, user: str) -> tuple[StoredSignIn, ...]:
        """Return the unlisted and unserved sign-ins that a user name refers to."""
        if not user:
            return ()
        found = await self.without_keeper()
        return tuple(each for each in found if is_named(user, each.login, each.who))

    async def _delete(self, items: Sequence[StoredSignIn], *, unserved: bool) -> Deleted | Result:
        """Delete those of `items` that are still unlisted (or `unserved`), or return a Result that says why not."""
        try:
            # The person may have taken minutes to agree, and a reload may have brought an account back. Nothing waits
            # between this line and the worker.
            now = set(self._keys(unserved=unserved))
        except OSError as error:
            return Result(False, f"the state folder cannot be read: {error.strerror}", "nothing was deleted")
        gone = tuple(each for each in items if each.key in now)
        keys = tuple(each.key for each in gone)
        end = await self._worker.housekeeping(lambda number: Delete(number, keys))
        await self.look()
        return Deleted(gone, end) if isinstance(end, Granted) else _failed(end)

    async def sign_out(self, items: Sequence[StoredSignIn]) -> Result:
        """Sign out of unlisted and unserved sign-ins."""
        done = await self._delete(items, unserved=True)
        if isinstance(done, Result):
            return done
        grants = tuple(
            Grant(each.authority, each.client_id, each.login, provider=provider_of(each.authority, each.provider))
            for each in done.items
        )
        names = ", ".join(each.name for each in done.items)
        return signed_out(
            SignedOut(grants, names, bool(done.end.sign_in.persisted), done.end.sign_in.key_from), time.time()
        )

    async def without_keeper(self) -> tuple[StoredSignIn, ...]:
        """Return the unlisted and unserved sign-ins."""
        stored = await self._stored(unserved=True) or ()
        return tuple(each for each in stored if not _is_closed(each, self._registry.config))

    async def delete_all(self, items: Sequence[StoredSignIn]) -> str | Result:
        """Delete these unlisted and unserved sign-ins; return what was deleted in words, "" if nothing was."""
        done = await self._delete(items, unserved=True) if items else ""
        return done if isinstance(done, Result) else str(done)

    async def prune(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Delete the unlisted sign-ins after the person has seen them and agreed."""
        items = await self.look()
        if not items:
            # A sign-in of the fleet may be for accounts that other hosts have.
            left = (
                "those of the fleet are left alone: `cms logout USER` ends one" if self._registry.config.fleet else ""
            )
            return Result(True, "there is nothing to prune: every stored sign-in has an account", left)
        await ask(told("\n".join(["Stored sign-ins without an account:", *map(listed, items)])))
        if not message.get("yes") and not (await ask(question("Delete them?"))).get("yes"):
            return Result(False, "nothing was deleted", "`cms prune --yes` deletes them without asking")
        done = await self._delete(items, unserved=False)
        return done if isinstance(done, Result) else Result(True, str(done))

    # Another key.

    async def rekey(self, ask: Ask) -> Result:
        """Move the stored sign-ins to the key that the configuration names."""
        moved, before, end = 0, set[str](), Rekeyed("", "", 1)
        while end.moved:
            if before:
                await ask(told(f"{_counted(moved)} moved so far"))
            key = end.key
            answer = await self._worker.housekeeping(lambda number, key=key: Rekey(number, key))  # type: ignore[misc]  # no lambda has annotations
            if not isinstance(answer, Rekeyed):
                failed = _failed(answer)
                return replace(failed, message=f"{_moved(moved)}{failed.message}")
            end, moved = answer, moved + answer.moved
            before.update(answer.before)
            self._registry.rekeyed(end.key_from, {each.key for each in end.unmoved})
        return _rekeyed(end, moved, sorted(before), any(self._folder.glob("*.vault")))

    # Export, and the import of an export.

    async def export(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Return the sign-ins of these users, or of all, as the text of an encrypted file (`extra["export"]`)."""
        named = message.get("users")
        users = [each for each in named if isinstance(each, str)] if isinstance(named, list) else []
        chosen = self._chosen(users)
        if isinstance(chosen, Result):
            return chosen
        passphrase = str((await ask({"event": "password", "message": "the export"})).get("password", ""))
        if not passphrase:
            return Result(False, "an export needs a passphrase", "nothing was written")
        grants = tuple({each.grant.key: each.grant for each in chosen}.values())
        end = await self._worker.housekeeping(lambda number: Export(number, grants, passphrase))
        if not isinstance(end, Exported):
            return _failed(end)
        return _exported(end, chosen)

    def _chosen(self, users: Sequence[str]) -> list[Account] | Result:
        """Return the accounts of these users that people sign in for; all such accounts if no user is named."""
        accounts, who = self._registry.config.accounts, self._registry.names
        unknown = [user for user in users if not accounts_meant(accounts, user, who)]
        if unknown:
            known = users_to_type(accounts) or "no account"
            return Result(False, f"there is no account {unknown[0]}", f"the configuration has: {known}")
        chosen = [each for each in accounts if any(accounts_meant([each], user, who) for user in users or [""])]
        return [each for each in chosen if not each.grant.unattended] or Result(
            False, "there is no account that a person signs in for", "only such accounts can be exported"
        )

    async def restore(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Import those sign-ins of an export for which the configuration has an account."""
        place = Place(str(message.get("path", "")), OURS)
        opened = await self._opened(place, ask)
        if isinstance(opened, Result):
            return opened
        place, items = opened
        user = str(message.get("user", ""))
        wanted = [each for each in items if not user or is_named(user, each.login, each.who)]
        if not wanted:
            held = ", ".join(to_type(each.name) for each in items)
            return Result(
                False, f"{place.path} has no sign-in{f' of {user}' if user else ''}", f"it has: {held}" if held else ""
            )
        force = bool(message.get("force"))
        return _summed([await self._restore(each, place, ask, force=force) for each in wanted])

    async def _opened(self, place: Place, ask: Ask) -> tuple[Place, tuple[StoredSignIn, ...]] | Result:
        end = await self._worker.housekeeping(lambda number: Peek(number, place))
        if isinstance(end, Refused) and end.trouble.kind == "password":
            password = str((await ask({"event": "password", "message": end.trouble.message})).get("password", ""))
            if not password:
                return Result(False, "the import needs the passphrase of the export", "nothing was changed")
            place = replace(place, password=password)
            end = await self._worker.housekeeping(lambda number: Peek(number, place))
        return (place, end.items) if isinstance(end, Listed) else _failed(end)

    async def _restore(self, kept: StoredSignIn, place: Place, ask: Ask, *, force: bool) -> str:
        """Import one sign-in and report it; return "imported", "moved", "kept", "failed" or "homeless"."""
        grant = next((each.grant for each in self._registry.config.accounts if each.grant.key == kept.key), None)
        if grant is None:
            await ask(
                told(
                    f"{kept.name or 'a sign-in without a name'}: the configuration has no matching account:\n\n"
                    f"{described(kept)}\n\nIf you know these values, add or change the account. "
                    "Then `cms reload` if cms is running, and import again"
                )
            )
            return "homeless"
        name = kept.name or "the account"
        outcome = await self._worker.bring_in(grant, place, keep=not force)
        if isinstance(outcome, Refused) and outcome.trouble.kind == "signed-in":
            if not (await ask(question(f"{outcome.trouble.message}. Replace that sign-in?"))).get("yes"):
                await ask(told(f"{name}: already signed in, and left unchanged (--force replaces it)"))
                return "kept"
            outcome = await self._worker.bring_in(grant, place)
        if not isinstance(outcome, Granted):
            trouble = outcome.trouble
            await ask(told("; ".join(filter(None, [f"{name}: not imported: {trouble.message}", trouble.hint]))))
            return "failed"
        self._registry.signed_in(grant, outcome)
        once = "; it is used on one machine only" if grant.rotates else ""
        await ask(told(f"{name}: imported and verified{once}"))
        return "moved" if once else "imported"


def _is_closed(kept: StoredSignIn, config: Config) -> bool:
    """True if this is of a mailbox that an account for every address of a domain opens when it is asked for."""
    domain = domain_of(kept.login)
    accounts = (each for each in config.accounts if each.max_mailboxes and each.domain == domain)
    return any(each.of(kept.login).grant.key == kept.key for each in accounts)


def _exported(end: Exported, chosen: Sequence[Account]) -> Result:
    """Return the result of an export of these accounts: which are in it, and which are not and why."""
    kept = {*end.keys, *end.kept_by_ms_broker}
    by_ms_broker = [each for each in chosen if each.grant.key in end.kept_by_ms_broker]
    missing = [each for each in chosen if each.grant.key not in kept]
    said = [f"exported: {users_in_words(each for each in chosen if each.grant.key in end.keys)}"]
    if missing:
        said.append(f"not exported, because not signed in: {users_in_words(missing)}")
    if by_ms_broker:
        said.append(
            f"cannot be exported: {users_in_words(by_ms_broker)}: {KEPT_BY_MS_BROKER}; `cms login` on the other machine"
        )
    rotating = [each for each in chosen if each.grant.key in end.keys and each.grant.rotates]
    if rotating:
        said.append(
            f"used on one machine only: {users_in_words(rotating)}: the provider may take a second machine for a thief,"
            " and end the sign-in; after the import, `cms logout` here"
        )
    return Result(True, "\n".join(said), extra={"export": end.text})


def _summed(ends: Sequence[str]) -> Result:
    """Return the result of an import from the results of its sign-ins."""
    good = not {"failed", "homeless"} & set(ends)
    if done := ends.count("imported") + ends.count("moved"):
        return Result(good, f"imported: {done} of {len(ends)}", _MOVED if "moved" in ends else _STAYS_VALID)
    return Result(good, "nothing was imported", "" if good else "the reasons are above")


def _counted(number: int) -> str:
    return f"{number} sign-in{'' if number == 1 else 's'}"


def _moved(number: int) -> str:
    return f"{_counted(number)} moved; " if number else ""


# The step that makes sure that nothing needs the old key, and what may still need it.
_OLD_KEY = (
    "Remove old_key= from the configuration, then `cms reload` if cms is running. cms keeps the old key ({}): delete it "
    "yourself, unless you need backups of the state folder from before"
)
_HOW_TO_MOVE = "to move to another key, name both in the configuration: Vault(key=..., old_key=...)"


def _rekeyed(end: Rekeyed, moved: int, before: Sequence[str], stored: bool) -> Result:
    """Return the result of a move to another key. `before` are the places of the old keys."""
    if end.unmoved:
        said = "; ".join(f"{each.login or each.key}: {each.message}" for each in end.unmoved)
        hints = "\n".join(dict.fromkeys(each.hint for each in end.unmoved if each.hint))
        return Result(False, f"{_moved(moved)}{_counted(len(end.unmoved))} not moved: {said}", hints)
    if moved:
        said = f"{_counted(moved)} moved to the key from {end.key_from}; each was read back"
        return Result(True, said, _OLD_KEY.format(", ".join(before)))
    if not stored:
        return Result(True, f"there is no stored sign-in; the next one is encrypted with the key from {end.key_from}")
    return Result(True, f"every sign-in is encrypted with the key from {end.key_from} already", _HOW_TO_MOVE)


def _failed(end: Ended) -> Result:
    """Return the result of a command that failed."""
    if isinstance(end, Transient | Refused):
        return ended(end)
    log.error("the grant worker sent a wrong kind of answer", answer=type(end).__name__)
    return Result(False, "the grant worker sent a wrong kind of answer", "this is a bug in cms")


def listed(kept: StoredSignIn) -> str:
    """Return a stored sign-in that no account uses, as a line of a list."""
    return f"  {kept.in_words}{_since(kept)}"


def _since(kept: StoredSignIn) -> str:
    return time.strftime(", signed in on %Y-%m-%d", time.localtime(kept.signed_in)) if kept.signed_in else ""


def described(kept: StoredSignIn) -> str:
    """Return the values of a sign-in's account, a line for each.

    Not as a line of the configuration: the values come from a file, and who pastes code does not look at them.
    """
    provider = provider_of(kept.authority, kept.provider)
    if provider != MICROSOFT:
        # Where cms has registered itself, there is no id to type.
        client_id = "" if kept.client_id == DYNAMIC else kept.client_id
        named = {"issuer, or token_endpoint": kept.authority} if provider == OWN else {"provider": provider}
        known = {"user": kept.login, **named, "client_id": client_id}
        return "\n".join(f"    {name}: {printable(value)}" for name, value in known.items() if value)
    where = urlsplit(kept.authority)
    host = f"{where.scheme}://{where.netloc}"
    cloud = next((each.name for each in CLOUDS.values() if each.login.lower() == host.lower()), "")
    known = {"user": kept.login, "tenant": where.path.strip("/"), "client_id": kept.client_id, "cloud": cloud}
    if not cloud:
        known["authority"] = host
    elif cloud == "global":
        del known["cloud"]
    return "\n".join(f"    {name}: {printable(value)}" for name, value in known.items() if value)
