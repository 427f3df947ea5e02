"""Answers the questions that are not about one grant: the whole vault, certificates, and the facts `cms init` needs."""

from __future__ import annotations

import re
import time

from cms.core.lifecycle import Granted, Refused, SignInFacts, Transient, Trouble
from cms.grants import wording
from cms.grants.credentials import certificate_end
from cms.grants.messages import (
    KEPT_BY_MS_BROKER,
    CheckCredentials,
    CredentialEnds,
    Delete,
    Ended,
    Explore,
    Explored,
    Export,
    Exported,
    FleetWork,
    Housekeeping,
    Listed,
    Peek,
    Rekey,
    Survey,
)
from cms.grants.providers import Providers, note
from cms.grants.secret_sources import Unavailable
from cms.grants.stores import Stores
from cms.grants.transfer import export_file, find
from cms.grants.transfer.formats import Unfit
from cms.grants.vault.rekey import rekey
from cms.grants.vault.store import Vault
from cms_oauth.microsoft import national_cloud
from cms_oauth.moves import cms, fill

# `tenant` of an issuer, which is https://HOST/TENANT/v2.0 (OpenID Connect discovery, as Entra does it).
_ISSUER = re.compile(r"https://[^/]+/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/v2\.0/?")

# Entra's numbers for a tenant that does not exist, with a valid name and with an invalid one.
_NO_TENANT = (90002, 900023)


def answer(stores: Stores, providers: Providers, question: Housekeeping) -> Ended:  # noqa: C901 - one case for each question
    """Answer a question that is not about one grant."""
    vault = stores.vault
    try:
        match question:
            case Export():
                return _export(stores, providers, question)
            case Peek(place=place) if place.source == export_file.SOURCE:
                return Listed(tuple(each.kept for each in find.exported(place)))
            case Peek(place=place):
                return Listed(tuple(find.listed(place)))
            case Survey():
                return Listed(tuple(vault.survey(question.keys)))
            case Delete():
                return deleted(vault, found=vault.delete(question.keys))
            case Rekey():
                return rekey(vault, question)
            case Explore():
                return _explore(vault, providers, question.url)
            case FleetWork():
                return _fleet_work(stores, providers, question)
            case CheckCredentials():
                return CredentialEnds(tuple(certificate_end(grant) for grant in question.grants))
    except find.NoPassword:
        return Refused(Trouble("password", "the export is encrypted with a passphrase"))
    except Unfit as unfit:
        return Refused(Trouble("unfit", unfit.message, unfit.hint))
    except Unavailable as unavailable:
        return unavailable.outcome


def deleted(vault: Vault | None, *, found: bool) -> Granted:
    """Return the answer to a question that has deleted sign-ins, after deleting the vault's key if no sign-in needs it now.

    `vault` is None for sign-ins of a fleet, whose key no host makes or deletes by itself.
    A key that cannot be deleted stays for the next sign-in; that is not a failure.
    """
    try:
        place = vault.drop_key() if vault else ""
    except Unavailable as unavailable:
        note(f"{unavailable.outcome.trouble.message}; it stays for the next sign-in")
        place = ""
    return Granted(
        "", time.clock_gettime(time.CLOCK_BOOTTIME), 0.0, sign_in=SignInFacts(persisted=found, key_from=place)
    )


def _export(stores: Stores, providers: Providers, question: Export) -> Ended:
    found = []
    for grant in question.grants:
        with stores.of(grant).hold(grant) as held:
            entry = held.read()
        if entry and not entry.cache:
            return Refused(wording.not_here(grant))
        if entry:
            found.append((grant, entry))
    sign_ins = [(grant, entry) for grant, entry in found if providers.of(grant).exportable(entry.cache)]
    if found and not sign_ins:
        return Refused(
            Trouble("unfit", f"nothing can be exported: {KEPT_BY_MS_BROKER}", "`cms login` on the other machine")
        )
    if not sign_ins:
        return Refused(
            Trouble(
                "no-sign-in",
                "none of the accounts is signed in: there is nothing to export",
                fill("sign in first: {login}", {"login": cms("login")}),
            )
        )
    try:
        text = export_file.encrypt(sign_ins, question.passphrase)
    except MemoryError:
        said = "there is too little memory to encrypt the export: 128 MiB are needed"
        return Transient(Trouble("storage", said, "close some programs, then try again"))
    keys = tuple(grant.key for grant, _ in sign_ins)
    return Exported(text, keys, tuple(grant.key for grant, _ in found if grant.key not in keys))


def _fleet_work(stores: Stores, providers: Providers, question: FleetWork) -> Ended:
    from cms.grants.fleet.work import work  # noqa: PLC0415 - the database's library, which only a fleet needs

    return work(stores, question, lambda grant, cache: providers.of(grant).exportable(cache))


def _explore(vault: Vault, providers: Providers, url: str) -> Explored:
    no_keyring = vault.key.keys.no_keyring()
    found = providers.entra.discovered(url) if url else {}
    if isinstance(found, Trouble):
        return Explored("", found.message, found.aadsts in _NO_TENANT, no_keyring)
    issuer = _ISSUER.fullmatch(str(found.get("issuer")))
    tenant = issuer[1].lower() if issuer else ""
    why = "" if issuer or not found else "the provider names no tenant"
    return Explored(tenant, why, unknown=False, no_keyring=no_keyring, cloud=national_cloud(found))
