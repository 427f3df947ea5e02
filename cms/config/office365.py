"""The directives Office365_Account (an account, its application and its cloud) and Office365 (its mailbox)."""

from __future__ import annotations

from dataclasses import replace

from cms.config import arguments, consistency
from cms.config.arguments import Given, Mistake, optional
from cms.config.draft import MOVES_NO_MAIL, AccountHandle, Draft, add_account, name_mailbox, protocols_of
from cms.config.ignored import Ignored
from cms.core.accounts import (
    EVERY,
    REGISTRATIONS,
    UNATTENDED,
    Account,
    Grant,
    Registration,
    Scopes,
    Source,
    registration_for,
    registration_of,
)
from cms_oauth.microsoft import CLOUDS, COMMON, CONSUMERS, NATIVE_CLIENT, TENANT_WORDS, Cloud

# The arguments of Office365_Account that are an application's credential.
CREDENTIALS = ("client_secret", "certificate", "client_assertion")

# Ways to sign in that Entra and Microsoft's broker offer to public clients only.
_PUBLIC_ONLY = ("device", "broker")


def office365_account(
    draft: Draft,
    user: Given = None,
    tenant: Given = None,
    client_id: Given = None,
    use_default_registration: Given = False,
    *,
    sign_in: Given = "browser",
    sign_in_as: Given = None,
    client_secret: Given = None,
    certificate: Given = None,
    certificate_password: Given = None,
    client_assertion: Given = None,
    cloud: Given = "global",
    authority: Given = None,
    scopes: Given = None,
    protocols: Given = None,
    redirect_uri: Given = None,
    origin: Given = None,
    prompt: Given = None,
    refresh_before: Given = None,
    preflight: Given = True,
    imap_host: Given = None,
    smtp_host: Given = None,
    pop_host: Given = None,
) -> AccountHandle:
    """Office365_Account. The names and the order of its arguments are documented."""
    address = optional(user, lambda given: arguments.mailbox("user", given))
    login = _login(address, sign_in_as)
    way = arguments.choice("sign_in", sign_in, arguments.SIGN_IN_WAYS)
    home = _cloud(cloud, imap_host=imap_host, smtp_host=smtp_host, pop_host=pop_host)
    registered = _registration(login, client_id, use_default_registration, way)
    grant = Grant(
        authority=_authority(home, registered, authority, tenant),
        client_id=registered.client_id,
        login="" if way in UNATTENDED else (login or "").lower(),
        sign_in=way,
        redirect_uri=optional(redirect_uri, arguments.redirect_uri) or registered.redirect_uri,
        origin=registered.origin if origin is None else arguments.origin(origin),
        prompt=optional(prompt, lambda given: arguments.choice("prompt", given, arguments.PROMPTS)),
        registration=registered.name,
        client_secret=_secret("client_secret", client_secret),
        certificate=_secret("certificate", certificate),
        certificate_password=_secret("certificate_password", certificate_password),
        client_assertion=_secret("client_assertion", client_assertion),
        refresh_before=optional(refresh_before, arguments.refresh_before),
    )
    _check(grant, address, sign_in_as, tenant)
    hosts = home.imap_host, home.smtp_host, home.pop_host
    account = Account(address or "", grant, {}, arguments.flag("preflight", preflight), *hosts)
    return _add(draft, account, home, optional(scopes, arguments.scopes), protocols)


def _add(draft: Draft, account: Account, home: Cloud, scopes: Scopes | None, protocols: Given) -> AccountHandle:
    own = optional(protocols, lambda given: protocols_of("protocols", given))
    handle = add_account(draft, AccountHandle(draft.place, account, home, scopes, own))
    case = consistency.Case(account.grant, home, account.user, handle.scopes or ())
    for warning in consistency.warnings(case):
        draft.warn_at(handle.place, warning)
    return handle


def office365(draft: Draft, mailbox: Given, account: Given) -> Ignored:
    """Office365: the mailbox of an account. cloud_mdir_sync downloads it; cms only opens it in tests."""
    name_mailbox(draft, mailbox, account)
    return draft.returned("Office365", MOVES_NO_MAIL)


def _cloud(name: Given, **hosts: Given) -> Cloud:
    """Return the cloud of this name, with the mail hosts that an account overrides."""
    own = {each: arguments.mail_host(each, given) for each, given in hosts.items() if given is not None}
    cloud = CLOUDS[arguments.choice("cloud", name, tuple(CLOUDS))]
    return replace(cloud, **own) if own else cloud


def _login(user: str | None, sign_in_as: Given) -> str | None:
    """Return who signs in, None if the file does not say."""
    if sign_in_as is None:
        return user
    if user is None:
        raise Mistake("sign_in_as= says who signs in for user=, and there is no user=")
    return arguments.address("sign_in_as", sign_in_as)


def _registration(login: str | None, client_id: Given, use_default_registration: Given, way: str) -> Registration:
    """Return the registration that an account uses: named, the domain's, the default, or the user's own."""
    use_default = arguments.flag("use_default_registration", use_default_registration)
    if client_id is None and way == "managed-identity":
        # A machine has one identity by default, which needs no id.
        return Registration("", "", COMMON, arguments.OWN_REDIRECT, None, "")
    if client_id is None:
        return registration_for(login, use_default=use_default)
    if use_default:
        raise Mistake("client_id= and use_default_registration=True exclude each other")
    by_name = {each.name: each for each in REGISTRATIONS}
    given = arguments.guid("client_id", client_id, tuple(by_name))
    redirect = NATIVE_CLIENT if way == "broker" else arguments.OWN_REDIRECT
    own = Registration("", given, COMMON, redirect, None, "")
    return by_name.get(given) or registration_of(given) or own


def _authority(cloud: Cloud, registered: Registration, authority: Given, tenant: Given) -> str:
    host = optional(authority, arguments.authority) or _login_host(cloud, registered)
    return f"{host}/{optional(tenant, arguments.tenant) or _home_tenant(cloud, registered)}"


def _login_host(cloud: Cloud, registered: Registration) -> str:
    """Return a cloud's login host. The registrations that cms knows are in the worldwide cloud only."""
    if registered.name and cloud.login != CLOUDS["global"].login:
        raise Mistake(
            f'cloud="{cloud.name}" needs client_id=: each national cloud has its own applications',
            "docs/microsoft-setup.md says how to register one",
        )
    return cloud.login


def _home_tenant(cloud: Cloud, registered: Registration) -> str:
    return CONSUMERS if cloud.name == "personal" else registered.tenant


def _secret(name: str, given: Given) -> Source | None:
    return optional(given, lambda found: arguments.secret(name, found))


def _check(grant: Grant, user: str | None, sign_in_as: Given, tenant: Given) -> None:
    """Raise Mistake for arguments that do not fit the way to sign in."""
    _check_credentials(grant)
    if grant.unattended:
        _check_unattended(grant, user, sign_in_as, tenant)
    elif user and user.startswith(EVERY):
        raise Mistake(
            'user= is every address of a domain, which only an application opens: sign_in="app" or "managed-identity"',
            "Where a person signs in, write out each address",
        )


def _check_credentials(grant: Grant) -> None:
    """Raise Mistake unless the credentials fit the way to sign in. An application has one credential."""
    given = [name for name in CREDENTIALS if getattr(grant, name)]
    if len(given) > 1:
        raise Mistake(f"{given[0]}= and {given[1]}= exclude each other", "An application has one credential")
    if grant.certificate_password and not grant.certificate:
        raise Mistake("certificate_password= opens certificate=, and there is none")
    if given and grant.registration:
        raise Mistake(f"{given[0]}= belongs to an application of your own", "Name that one in client_id=")
    if given and grant.sign_in == "managed-identity":
        raise Mistake(
            f'{given[0]}= is not for sign_in="managed-identity"', "Azure identifies the machine: leave it out"
        )
    if given and grant.sign_in in _PUBLIC_ONLY:
        raise Mistake(
            f'sign_in="{grant.sign_in}" is for applications without {given[0]}=', 'sign_in="paste" works anywhere'
        )
    if not given and grant.sign_in == "app":
        raise Mistake(
            f'sign_in="app" needs one of {", ".join(f"{name}=" for name in CREDENTIALS)}',
            'Such as certificate=File("/etc/cms/app.pem")',
        )


def _check_unattended(grant: Grant, user: str | None, sign_in_as: Given, tenant: Given) -> None:
    """Raise Mistake for arguments that make no sense if no person signs in."""
    way = f'sign_in="{grant.sign_in}"'
    if user is None:
        raise Mistake(f"{way} needs user=, the mailbox", "An application has no mailbox")
    if sign_in_as is not None:
        raise Mistake(f"sign_in_as= says who signs in, and with {way} no person does", "Leave it out")
    if grant.sign_in == "managed-identity":
        _check_machine(grant, tenant)
    elif grant.registration:
        raise Mistake(f"{way} needs client_id=", "The application is one of your own (docs/microsoft-setup.md)")
    elif grant.authority.rpartition("/")[2] in TENANT_WORDS:
        raise Mistake(f"{way} needs tenant=, the one that the application works in", "Its GUID, or its domain")


def _check_machine(grant: Grant, tenant: Given) -> None:
    """Raise Mistake for arguments that a machine's identity does not have."""
    way = f'sign_in="{grant.sign_in}"'
    if tenant is not None:
        raise Mistake(f"tenant= is not for {way}", "The machine's identity is in a tenant already: leave it out")
    if grant.registration:
        raise Mistake(f"{way} needs a client_id= of your own, or none", "It names a user-assigned identity")
    if grant.authority.endswith(f"/{CONSUMERS}"):
        raise Mistake(f'{way} is not for cloud="personal"', "At Outlook.com only people can sign in, not machines")
