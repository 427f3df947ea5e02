"""Signs accounts out: one, or all, here only or at their providers as well."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cms.core.accounts import Grant, StoredSignIn, Unclear
from cms.core.lifecycle import Granted
from cms.daemon.control.answers import Ask, Result, nothing_to_sign_out, question, told
from cms.daemon.control.sign_out_words import SignedOut, cannot_end, expiry_of, signed_out, what_ends
from cms.daemon.control.vault_commands import VaultCommands, listed
from cms.daemon.keeper import Keeper
from cms.daemon.registry import Registry
from cms.daemon.signin.signins import SignIns
from cms.daemon.worker import Worker
from cms.system.clock import Clock
from cms_oauth.providers import can_revoke


def meant(registry: Registry, user: str, command: str) -> list[Keeper] | Result:
    """Return the keepers that a user name refers to, or a Result that says why there is none."""
    keepers = registry.meant(user, command)
    return Result(False, keepers.message, keepers.hint) if isinstance(keepers, Unclear) else keepers


class SignOuts:
    """The sign-outs of `cms logout`. Without a daemon the registry's keepers do not run."""

    def __init__(
        self, worker: Worker, registry: Registry, signins: SignIns, vault: VaultCommands, clock: Clock
    ) -> None:
        self._worker = worker
        self._registry = registry
        self._signins = signins
        self._vault = vault
        self._clock = clock

    async def of_user(self, user: str) -> Result:
        """Sign out of the accounts that a name refers to, or of stored sign-ins that no account uses."""
        keepers = meant(self._registry, user, "logout")
        if isinstance(keepers, Result):
            stored = await self._vault.named(user)
            return await self._vault.sign_out(stored) if stored else keepers
        for keeper in keepers:
            if keeper.grant.unattended:
                return nothing_to_sign_out(self._registry.in_words([keeper]))
        return await self._sign_out(keepers)

    async def of_all(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Delete every sign-in after the person has seen whose they are and agreed: first those that no account uses.

        Stored tokens of applications go with them, before the last sign-in: the key is deleted with the last file.
        """
        signed_in = self._perhaps_signed_in()
        others = await self._vault.without_keeper()
        if signed_in or others:
            lines = [f"  {self._registry.in_words([each])}" for each in signed_in]
            in_fleet = self._registry.config.fleet is not None
            head = (
                "Sign-ins of these accounts, on every host of the fleet:" if in_fleet else "Sign-ins on this machine:"
            )
            await ask(told("\n".join([head, *lines, *map(listed, others)])))
            if not message.get("yes") and not (await ask(question("Delete all of them?"))).get("yes"):
                return Result(False, "nothing was deleted", "`cms logout --all --yes` deletes them without asking")
        return await self._delete_all(signed_in, others)

    async def _delete_all(
        self, signed_in: Sequence[Keeper], others: Sequence[StoredSignIn], left: Sequence[Keeper] = ()
    ) -> Result:
        """Delete `others`, the tokens of applications, and every sign-in but those of `left`. `signed_in` are named."""
        kept = {each.grant.key for each in left}
        deleted = await self._vault.delete_all(others)
        if isinstance(deleted, Result):
            return deleted
        for keeper in self._registry.keepers:
            if keeper.grant.unattended and self._vault.stored_at(keeper.grant.key):
                outcome = await self._worker.sign_out(keeper.grant)
                if not isinstance(outcome, Granted):
                    said = f"a token of {self._registry.name_of(keeper)} is still stored: {outcome.trouble.message}"
                    return Result(False, said, outcome.trouble.hint)
        if failed := await self._vault.forget_closed():
            return failed
        # Every account: somebody may have signed in meanwhile, or may be signing in now.
        keepers = [each for each in self._registry.keepers if not each.grant.unattended and each.grant.key not in kept]
        result = await self._sign_out(keepers, signed_in)
        if not deleted:
            return result
        return replace(result, message=f"{result.message}\nsign-ins without an account {deleted}")

    async def revoke(self, message: Mapping[str, Any], ask: Ask) -> Result:
        """Sign out of the accounts that a name refers to, or of all, after ending their sign-ins at the provider.

        The person sees first what else ends with each, and which can only be deleted here, and agrees.
        """
        user, every = str(message.get("user", "")), message.get("all") is True
        keepers = self._perhaps_signed_in() if every else meant(self._registry, user, "logout")
        unknown = isinstance(keepers, Result)
        others = await self._vault.without_keeper() if every else await self._vault.named(user) if unknown else ()
        lines = [f"{listed(each)}; cms serves no account of it" for each in others]
        if isinstance(keepers, Result):
            return cannot_end((), lines) if others else keepers
        if unattended := [each for each in keepers if each.grant.unattended]:
            return nothing_to_sign_out(self._registry.in_words(unattended), revoke=True)
        if not keepers and not others:
            return await self._sign_out([])
        ending = [each for each in keepers if can_revoke(each.grant.server)]
        staying = [each for each in keepers if each not in ending]
        named, unnamed = self._with_names(ending), self._with_names(staying)
        if not ending:
            return cannot_end(unnamed, lines)
        await ask(told(what_ends(named, unnamed, lines)))
        if not message.get("yes") and not (await ask(question("End them there, and sign out here?"))).get("yes"):
            return Result(False, "nothing was changed", "`cms logout --revoke --yes` ends them without asking")
        # First what only goes here: if it cannot be deleted, nothing has ended.
        if every or staying:
            left = [each for each in self._registry.keepers if can_revoke(each.grant.server)]
            rest = await (self._delete_all(staying, others, left) if every else self._sign_out(staying))
            if not rest.ok:
                return rest
            if staying or others:
                await ask(told(f"{rest.message}\n{rest.hint}"))
        return await self._end(ending, ask)

    async def _end(self, keepers: Sequence[Keeper], ask: Ask) -> Result:
        """End these sign-ins one after another. One that stays keeps no other from its turn."""
        results = list[Result]()
        for keeper in keepers:
            result = await self._sign_out([keeper], revoke=True)
            results.append(result)
            if len(keepers) > 1:
                # A provider that cannot be reached takes its time, and the command waits for a sign of life.
                await ask(told("\n".join(filter(None, [result.message, result.hint]))))
        if len(results) == 1:
            return results[0]
        ended = sum(each.ok for each in results)
        return Result(ended == len(results), f"ended at the provider: {ended} of {len(results)}")

    def _with_names(self, keepers: Iterable[Keeper]) -> list[tuple[str, Grant]]:
        return [(self._registry.in_words([each]), each.grant) for each in keepers]

    def _signed_in(self) -> list[Keeper]:
        """Return the keepers whose sign-in a person has made, and that is still there."""
        return [each for each in self._registry.keepers if not each.grant.unattended and self._is_signed_in(each)]

    def _perhaps_signed_in(self) -> list[Keeper]:
        """Return those that are signed in, and in a fleet all that persons sign in for.

        What a fleet has is known to its database, which only an end asks.
        """
        if self._registry.config.fleet is None:
            return self._signed_in()
        return [each for each in self._registry.keepers if not each.grant.unattended]

    def _is_signed_in(self, keeper: Keeper) -> bool:
        """True if there is a sign-in to delete: stored, in memory, or known by its token."""
        held = any(life.held for life in keeper.lives.values())
        return held or keeper.sign_in.persisted is not None or bool(self._vault.stored_at(keeper.grant.key))

    async def _sign_out(
        self, keepers: Sequence[Keeper], named: Sequence[Keeper] = (), *, revoke: bool = False
    ) -> Result:
        """Sign out of these; the report names `named`, or all of them. With `revoke`, end them at the provider first."""
        names, grants = self._registry.in_words(named or keepers), tuple(keeper.grant for keeper in keepers)
        held = [life.held for keeper in keepers for life in keeper.lives.values() if life.held]
        found, key_from, heard, revoked = bool(held), "", "", False
        for number, keeper in enumerate(keepers):
            self._signins.cancel(keeper.grant)
            outcome = await self._worker.sign_out(keeper.grant, revoke=revoke)
            if not isinstance(outcome, Granted):
                said = f"{self._registry.name_of(keeper)} is still signed in: {outcome.trouble.message}"
                if done := self._registry.in_words(each for each in keepers[:number] if not named or each in named):
                    said = f"{said}\nsigned out: {done}"
                return Result(False, said, outcome.trouble.hint)
            stored = bool(outcome.sign_in.persisted)
            found, key_from, revoked = found or stored, key_from or outcome.sign_in.key_from, revoke and stored
            heard = outcome.note or heard
            keeper.signed_out()
        now = self._clock.wall()
        expires = expiry_of(held, self._clock.boot(), now)
        ended = SignedOut(grants, names, found, key_from, expires, heard=heard, revoked=revoked)
        return signed_out(ended, now)
