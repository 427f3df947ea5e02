"""The directives OAuth2_Account (an account of any provider but Microsoft), GMail_Account and GMail."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from cms.config import arguments
from cms.config.arguments import Given, Mistake, optional
from cms.config.draft import MOVES_NO_MAIL, AccountHandle, Draft, add_account, name_mailbox, protocols_of
from cms.config.ignored import Ignored
from cms.core.accounts import EVERY, Account, Grant, Scopes, Source
from cms.system.files import read_regular
from cms_oauth.json_object import read_object
from cms_oauth.microsoft import PERMISSIONS
from cms_oauth.providers import CLIENT_AUTH, DYNAMIC, GOOGLE, MICROSOFT, OWN, PROVIDERS, Provider, Server

# What a sign-in at your own server asks for unless the configuration has scopes=: a name, and a refresh token.
_USUAL_SCOPES = ("openid", "email", "offline_access")

# The addresses of a server without a discovery document. It has to have the first two.
_ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "device_authorization_endpoint",
    "userinfo_endpoint",
    "revocation_endpoint",
)
_NEEDED = _ENDPOINTS[:2]

# Google's client files have a few hundred bytes. The id in it has to fit into the header of a vault file.
_MOST_CLIENT = 3 * 1024

# How many mailboxes of a domain are served at a time unless the configuration has max_mailboxes=: a mistake or a flood of
# made-up addresses costs no more than this, and it is more than most servers need.
_MOST_MAILBOXES = 1000

# Why a bare GMail_Account is ignored.
_NO_CLIENT = (
    "Google gives tokens to a registered client only. docs/providers.md says how to get one; then"
    ' GMail_Account(USER, client=File("google-client.json"))'
)


def oauth2_account(
    draft: Draft,
    user: Given,
    *,
    provider: Given = None,
    issuer: Given = None,
    authorization_endpoint: Given = None,
    token_endpoint: Given = None,
    device_authorization_endpoint: Given = None,
    userinfo_endpoint: Given = None,
    revocation_endpoint: Given = None,
    client_id: Given = None,
    client_secret: Given = None,
    certificate: Given = None,
    certificate_password: Given = None,
    client_auth: Given = None,
    sign_in: Given = None,
    sign_in_as: Given = None,
    scopes: Given = None,
    protocols: Given = None,
    redirect_uri: Given = None,
    prompt: Given = None,
    parameters: Given = None,
    resource: Given = None,
    username_claim: Given = None,
    lifetime: Given = None,
    refresh_before: Given = None,
    preflight: Given = True,
    imap_host: Given = None,
    smtp_host: Given = None,
    pop_host: Given = None,
) -> AccountHandle:
    """OAuth2_Account: a mailbox at a provider that cms knows, or at a server with OAuth2."""
    needed = authorization_endpoint, token_endpoint
    more = device_authorization_endpoint, userinfo_endpoint, revocation_endpoint
    row, server = _server(provider, issuer, dict(zip(_ENDPOINTS, needed + more, strict=True)))
    server = _adjusted(server, resource, username_claim, lifetime, _parameters(server, prompt, parameters))
    proofs = _proofs(client_secret, certificate, certificate_password)
    grant = Grant(
        authority=server.issuer or server.token_endpoint,
        client_id=_client_id(row, server, client_id, proofs),
        login=_login(user, sign_in_as),
        sign_in=_way(row, server, sign_in),
        redirect_uri=optional(redirect_uri, arguments.any_redirect_uri) or row.redirect,
        refresh_before=optional(refresh_before, arguments.refresh_before),
        provider=row.name,
        server=replace(server, client_auth=_client_auth(server, proofs, client_auth)),
        **proofs._asdict(),
    )
    hosts, needs = (imap_host, smtp_host, pop_host), _needs(row, scopes)
    return _add(draft, grant, needs, user=user, protocols=protocols, preflight=preflight, hosts=hosts)


def gmail_account(
    draft: Draft,
    user: Given = None,
    *,
    client: Given = None,
    service_account: Given = None,
    max_mailboxes: Given = None,
    sign_in: Given = None,
    sign_in_as: Given = None,
    protocols: Given = None,
    redirect_uri: Given = None,
    refresh_before: Given = None,
    preflight: Given = True,
    imap_host: Given = None,
    smtp_host: Given = None,
    pop_host: Given = None,
) -> AccountHandle | Ignored:
    """GMail_Account: a mailbox at Gmail, or of a Google Workspace. cloud_mdir_sync's files have it without `client`."""
    if client is None and service_account is None:
        draft.warn(draft.line(), f"GMail_Account is ignored: {_NO_CLIENT}")
        return draft.returned("GMail_Account", _NO_CLIENT)
    if client is not None and service_account is not None:
        raise Mistake("client= and service_account= exclude each other", "A person signs in, or a service account does")
    row = PROVIDERS[GOOGLE]
    assert row.server, "Google's row has one"
    grant = Grant(
        authority=row.server.issuer,
        client_id="",
        login=_login(user, sign_in_as, every=service_account is not None),
        redirect_uri=optional(redirect_uri, arguments.any_redirect_uri) or row.redirect,
        refresh_before=optional(refresh_before, arguments.refresh_before),
        provider=row.name,
        server=row.server,
    )
    if service_account is not None:
        grant = _of_service_account(grant, service_account, sign_in, sign_in_as)
    else:
        source = arguments.secret("client", client)
        way = _way(row, row.server, sign_in)
        grant = replace(grant, client_id=_client_of(source), client_secret=source, sign_in=way)
    hosts, most = (imap_host, smtp_host, pop_host), _most_mailboxes(grant.login, max_mailboxes)
    return _add(draft, grant, row.scopes, user=user, protocols=protocols, preflight=preflight, hosts=hosts, most=most)


def gmail(draft: Draft, mailbox: Given, account: Given) -> Ignored:
    """GMail: the mailbox of an account, as Office365 is. That of an account that is ignored is ignored too."""
    if isinstance(account, Ignored):
        draft.warn(draft.line(), f"GMail is ignored: {MOVES_NO_MAIL}")
    else:
        name_mailbox(draft, mailbox, account)
    return draft.returned("GMail", MOVES_NO_MAIL)


def _server(provider: Given, issuer: Given, endpoints: Mapping[str, Given]) -> tuple[Provider, Server]:
    """Return the provider that the arguments name, and its server. Without the first two, `endpoints` are the server's."""
    ways = {"provider=": provider, "issuer=": issuer, **{f"{name}=": each for name, each in endpoints.items()}}
    given = [name for name, each in ways.items() if each is not None]
    if provider is not None or issuer is not None:
        if len(given) > 1:
            raise Mistake(f"{given[0]} and {given[1]} exclude each other", "Each of them says where the server is")
        if issuer is not None:
            return PROVIDERS[OWN], Server(arguments.https("issuer", issuer))
        row = _row(provider)
        assert row.server, "only Microsoft has none"
        return row, row.server
    if any(endpoints[name] is None for name in _NEEDED):
        raise Mistake(
            "the server is missing: provider=, issuer=, or authorization_endpoint= and token_endpoint=",
            f"Providers that cms knows: {', '.join(_known())}",
        )
    found = {name: optional(each, partial(arguments.https, name)) or "" for name, each in endpoints.items()}
    return PROVIDERS[OWN], Server(
        authorization_endpoint=found["authorization_endpoint"],
        token_endpoint=found["token_endpoint"],
        device_endpoint=found["device_authorization_endpoint"],
        userinfo_endpoint=found["userinfo_endpoint"],
        revocation_endpoint=found["revocation_endpoint"],
    )


def _known() -> list[str]:
    return [name for name in PROVIDERS if name not in (MICROSOFT, OWN)]


def _row(provider: Given) -> Provider:
    if provider == MICROSOFT:
        raise Mistake("provider= is not for Microsoft's accounts", "Office365_Account(USER) is")
    return PROVIDERS[arguments.choice("provider", provider, _known())]


def _adjusted(
    server: Server, resource: Given, username_claim: Given, lifetime: Given, parameters: tuple[tuple[str, ...], ...]
) -> Server:
    """Return the server with what the file says of it."""
    return replace(
        server,
        resource=server.resource if resource is None else arguments.text("resource", resource),
        who=server.who if username_claim is None else (arguments.text("username_claim", username_claim),),
        lifetime=server.lifetime if lifetime is None else arguments.seconds("lifetime", lifetime, 60.0),
        parameters=parameters,
    )


def _parameters(server: Server, prompt: Given, parameters: Given) -> tuple[tuple[str, ...], ...]:
    """Return the further parameters of the sign-in's address: those of the file win."""
    found = dict(server.parameters)  # type: ignore[arg-type]  # pairs
    if prompt is not None:
        found["prompt"] = arguments.choice("prompt", prompt, arguments.PROMPTS)
    if parameters is not None:
        found |= arguments.pairs("parameters", parameters)
    return tuple(found.items())


def _client_id(row: Provider, server: Server, client_id: Given, proofs: _Proofs) -> str:
    if client_id is not None:
        return arguments.text("client_id", client_id)
    # A server with a discovery document may register clients; the sign-in says so if it does not.
    if row.registers or (row.name == OWN and server.issuer):
        if any(proofs):
            # What registers itself has no secret, and is refused with one.
            raise Mistake(
                "client_secret= or certificate= is given without client_id=", "An application has both, or neither"
            )
        return DYNAMIC
    which = f'provider="{row.name}"' if row.name != OWN else "a server without issuer="
    raise Mistake(f"{which} needs client_id=", row.client[:1].upper() + row.client[1:])


def _login(user: Given, sign_in_as: Given, *, every: bool = False) -> str:
    address = arguments.mailbox("user", user)
    if address.startswith(EVERY) and not every:
        raise Mistake(
            "user= is every address of a domain, which only an application of Microsoft's or a service account of Google's"
            " opens",
            "Name each address",
        )
    return (optional(sign_in_as, lambda given: arguments.address("sign_in_as", given)) or address).lower()


def _way(row: Provider, server: Server, sign_in: Given) -> str:
    """Return how a person signs in."""
    ways = tuple(each for each in row.ways if each != "app")
    if sign_in is None:
        return ways[0]
    way = arguments.choice("sign_in", sign_in, ("browser", "device", "paste"))
    if way not in ways:
        raise Mistake(f'sign_in="{way}" does not work with {row.title}', f"What works: {', '.join(ways)}")
    if way == "device" and not (server.issuer or server.device_endpoint):
        raise Mistake('sign_in="device" needs device_authorization_endpoint=', 'sign_in="paste" works anywhere')
    return way


class _Proofs(NamedTuple):
    """Where to read what an application proves itself with."""

    client_secret: Source | None
    certificate: Source | None
    certificate_password: Source | None


def _proofs(client_secret: Given, certificate: Given, certificate_password: Given) -> _Proofs:
    """Return what the application proves itself with."""
    if client_secret is not None and certificate is not None:
        raise Mistake("client_secret= and certificate= exclude each other", "An application has one credential")
    if certificate_password is not None and certificate is None:
        raise Mistake("certificate_password= opens certificate=, and there is none")
    return _Proofs(
        optional(client_secret, lambda given: arguments.secret("client_secret", given)),
        optional(certificate, lambda given: arguments.secret("certificate", given)),
        optional(certificate_password, lambda given: arguments.secret("certificate_password", given)),
    )


def _client_auth(server: Server, proofs: _Proofs, client_auth: Given) -> str:
    """Return how the application proves itself, "" to leave that to the server's document."""
    secret, certificate = proofs.client_secret, proofs.certificate
    found = optional(client_auth, lambda given: arguments.choice("client_auth", given, CLIENT_AUTH))
    if certificate and found not in (None, "private_key_jwt"):
        raise Mistake(f'client_auth="{found}" uses no certificate=', 'Leave client_auth= out: it is "private_key_jwt"')
    if found == "private_key_jwt" and not certificate:
        raise Mistake('client_auth="private_key_jwt" needs certificate=', 'Such as certificate=File("app.pem")')
    if found in ("basic", "post") and not secret:
        raise Mistake(f'client_auth="{found}" needs client_secret=', 'Such as client_secret=File("secret")')
    if found == "none" and secret:
        raise Mistake('client_auth="none" uses no client_secret=', "Leave one of them out")
    return found or ("private_key_jwt" if certificate else server.client_auth)


def _needs(row: Provider, scopes: Given) -> Mapping[str, Scopes]:
    """Return the scopes that each mail protocol needs."""
    if scopes is None:
        return row.scopes or dict.fromkeys(PERMISSIONS, _USUAL_SCOPES)
    if isinstance(scopes, Mapping):
        return {
            arguments.choice("scopes", name, tuple(PERMISSIONS)): arguments.any_scopes(each)
            for name, each in scopes.items()
        }
    return dict.fromkeys(PERMISSIONS, arguments.any_scopes(scopes))


def _most_mailboxes(login: str, max_mailboxes: Given) -> int:
    """Return how many mailboxes of a domain may be open at a time, 0 for an account of one address."""
    if login.startswith(EVERY):
        return _MOST_MAILBOXES if max_mailboxes is None else arguments.count("max_mailboxes", max_mailboxes)
    if max_mailboxes is not None:
        raise Mistake(
            "max_mailboxes= is for every address of a domain", 'Such as user="*@corp.example", or leave it out'
        )
    return 0


def _of_service_account(grant: Grant, service_account: Given, sign_in: Given, sign_in_as: Given) -> Grant:
    """Return the grant of a service account, whose file only the grant worker reads: there is a private key in it."""
    if sign_in is not None or sign_in_as is not None:
        raise Mistake("sign_in= and sign_in_as= are not for service_account=", "No person signs in: leave them out")
    if grant.login.rpartition("@")[2] in PROVIDERS[GOOGLE].domains:
        raise Mistake(
            "service_account= is for mailboxes of a Google Workspace, and this is a person's account",
            'client=File("google-client.json")',
        )
    return replace(grant, sign_in="app", client_secret=arguments.secret("service_account", service_account))


def _client_of(source: Source) -> str:
    """Return the client id in a file of Google's console. What it calls a secret is none for a program on a desktop."""
    if source.kind != "file":
        raise Mistake("client= is a File", 'client=File("google-client.json")')
    (path,) = source.value
    try:
        found = read_object(read_regular(path, _MOST_CLIENT))
    except OSError as error:
        raise Mistake(f"client= cannot be read: {path}: {error.strerror}") from None
    except ValueError:
        raise Mistake(
            f"client= is the JSON file that Google's console downloads, and this is not JSON: {path}"
        ) from None
    if found.get("type") == "service_account":
        raise Mistake("client= is the file of a service account", "service_account=File(...) takes it")
    if "web" in found:
        raise Mistake("client= is a client of type Web application", "Create one of type Desktop app")
    installed: Any = found.get("installed")
    client_id = installed.get("client_id") if isinstance(installed, dict) else None
    # RFC 6749, A.1.
    if not isinstance(client_id, str) or not client_id or not (client_id.isascii() and client_id.isprintable()):
        raise Mistake(f"client= has no client of type Desktop app in it: {path}", "Download the file once more")
    if not installed.get("client_secret"):
        raise Mistake(
            f"client= has no client_secret in it, which Google wants: {path}",
            "Add a secret to the client in Google's console, and download the file then: Google shows it once",
        )
    return client_id


def _add(
    draft: Draft,
    grant: Grant,
    needs: Mapping[str, Scopes],
    *,
    user: Given,
    protocols: Given,
    preflight: Given,
    hosts: tuple[Given, Given, Given],
    most: int = 0,
) -> AccountHandle:
    row = PROVIDERS[grant.provider]
    usual = {"imap_host": row.imap_host, "smtp_host": row.smtp_host, "pop_host": row.pop_host}
    imap, smtp, pop = (
        known if given is None else arguments.mail_host(name, given)
        for (name, known), given in zip(usual.items(), hosts, strict=True)
    )
    account = Account(
        arguments.mailbox("user", user),
        grant,
        {},
        arguments.flag("preflight", preflight),
        imap,
        smtp,
        pop,
        max_mailboxes=most,
    )
    own = optional(protocols, lambda given: protocols_of("protocols", given))
    return add_account(draft, AccountHandle(draft.place, account, None, None, own, needs))
