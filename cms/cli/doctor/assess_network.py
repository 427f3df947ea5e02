"""Turns what `probe_network` finds out about names, login hosts, proxies and ports into findings. Pure, as `assess` is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cms.cli.doctor.findings import Finding, failed, passed, skipped, warned, yours
from cms.core.status_table import some
from cms.core.words import duration
from cms_oauth.diagnosis.certificates import CERTIFICATE, at_login
from cms_oauth.diagnosis.mail import reachable
from cms_oauth.diagnosis.verdicts import Verdict
from cms_oauth.microsoft import LOGIN_HOSTS, LOGIN_ISSUERS
from cms_oauth.moves import Command

# Entra and Exchange tolerate a clock that is five minutes off. Half a minute means that nothing synchronises the clock.
SKEW_WARNS = 30.0
SKEW_FAILS = 300.0


@dataclass(frozen=True, slots=True)
class Names:
    """The addresses of a host, or why they could not be looked up."""

    host: str
    addresses: tuple[str, ...] = ()
    error: str = ""


@dataclass(frozen=True, slots=True)
class Https:
    """The result of a TLS connection to a login host.

    - `issuer`: who issued its certificate; known even if the certificate is not `trusted`.
    - `version`: of TLS.
    - `skew`: by how many seconds this machine's clock is ahead of the host's Date.
    - `error`: what went wrong, "" for nothing.
    - `valid`: from when to when its certificate is valid, "" if it is trusted or not known.
    - `proxy`: the address of the proxy on the way, without credentials. `named_by`: what names it.
    - `ca`: the file of Tls(ca=).
    - `unusable`: what names certificate authorities that cannot be loaded, "" for nothing.
    - `unseen`: why cms did not connect, "" if it did.
    - `nameless`: its name was not resolved.
    """

    host: str
    trusted: bool = False
    issuer: str = ""
    version: str = ""
    skew: float | None = None
    error: str = ""
    proxy: str = ""
    ca: str = ""
    unseen: str = ""
    valid: str = ""
    named_by: str = ""
    unusable: str = ""
    nameless: bool = False


@dataclass(frozen=True, slots=True)
class Reached:
    """Whether a mail server accepts connections: `error` says why not. `nameless`: its name was not resolved."""

    host: str
    port: int
    error: str = ""
    nameless: bool = False


def names(found: Sequence[Names]) -> list[Finding]:
    """Return the findings about hosts: those without an address for the same reason have one."""
    unknown = dict[str, list[str]]()
    for each in found:
        if not each.addresses:
            unknown.setdefault(each.error, []).append(each.host)
    findings = [passed("dns", f"{each.host} is {', '.join(each.addresses[:3])}") for each in found if each.addresses]
    for error, hosts in unknown.items():
        step = f"`{Command(('getent', 'hosts', hosts[0]))}`; if that fails too, check /etc/resolv.conf and the network"
        verdict = yours("no-name", "no address is known for this name", step)
        findings.append(failed("dns", f"{', '.join(hosts)}: {error}", verdict))
    return findings


def clock(found: Https) -> Finding:
    if found.skew is None:
        reason = found.unseen or found.error or "its answer has no Date"
        return skipped("clock", f"{found.host} sent no time: {reason}")
    order = "ahead of" if found.skew > 0 else "behind"
    said = f"{duration(abs(found.skew))} {order} {found.host}"
    if abs(found.skew) < SKEW_WARNS:
        return passed("clock", said)
    verdict = yours(
        "clock",
        "this machine's clock is wrong, and tokens are refused as expired or as not valid yet",
        "`timedatectl set-ntp true`, then `timedatectl status`",
    )
    return (failed if abs(found.skew) >= SKEW_FAILS else warned)("clock", said, verdict)


def tls(found: Https) -> Finding:
    if found.unseen:
        return skipped("tls", f"{found.host}: {found.unseen}")
    if not found.trusted and found.issuer:
        return _untrusted(found)
    # Another check says why there is no connection.
    elsewhere = "proxy" if found.proxy or found.named_by else "dns" if found.nameless else ""
    if not found.trusted and elsewhere and not found.unusable:
        return skipped("tls", f"{found.host}: {found.error}; see {elsewhere}")
    if not found.trusted:
        return failed("tls", f"{found.host}: {found.error}", _unreachable(found))
    said = f"{found.host}: {found.version}, certificate from {found.issuer}"
    if found.ca:
        return passed("tls", f"{said}, trusted by Tls(ca=)")
    if found.host not in LOGIN_HOSTS or any(word in found.issuer.lower() for word in LOGIN_ISSUERS):
        return passed("tls", said)
    return warned("tls", said, _INTERCEPTED)


_INTERCEPTED = Verdict(
    "interception",
    "a proxy between here and Microsoft, such as your company's, intercepts TLS: it can read the sign-in",
    "administrator",
    ("ask for an exception for the login host (Microsoft also asks for no TLS inspection there)",),
)


def _untrusted(found: Https) -> Finding:
    valid = f", valid {found.valid}" if found.valid else ""
    said = f"{found.host}: the certificate from {found.issuer}{valid} is not trusted: {found.error}"
    verdict = at_login(found.error, found.host)
    if verdict.name != CERTIFICATE.name:
        return failed("tls", said, verdict)
    return failed(
        "tls",
        said,
        yours(
            "corporate-certificate",
            "cms does not know its authority, such as that of your company's proxy, which intercepts TLS",
            'Tls(ca="FILE") in the configuration, with your company\'s root certificate in FILE (often'
            " /etc/ssl/certs/ca-certificates.crt)",
            "`cms reload`",
        ),
    )


def _unreachable(found: Https) -> Verdict:
    if found.unusable:
        cause = f"cms cannot load the certificate authorities that {found.unusable} names"
        move = "then `cms reload`" if found.ca else "or unset it, where cms is started, and start it again"
        return yours("wrong-authorities", cause, f"correct {found.unusable}, {move}")
    if found.proxy:
        return yours(
            "proxy", f"cms uses the proxy {found.proxy}, which {found.named_by} names", f"check {found.named_by}"
        )
    if found.named_by:
        return yours("proxy", f"{found.error}", f"correct {found.named_by}, or set Proxy(...) in the configuration")
    step = "check the firewall; if a proxy is required, set HTTPS_PROXY or Proxy(...) in the configuration"
    return yours("unreachable", "no TLS connection with the login host", step)


def environment(found: Sequence[str], wrong: Sequence[str]) -> list[Finding]:
    """Return the findings about variables that name files which are not there.

    Those in `wrong` make connections with login hosts impossible; those in `found` are ignored.
    """
    step = "correct the variable, or unset it, where cms and the mail programs are started"
    bad = [failed("environment", each, yours("wrong-variable", "cms cannot connect with it", step)) for each in wrong]
    ignored = yours("ignored-variable", "OpenSSL ignores it, in cms and in mail programs that use OpenSSL", step)
    bad += [warned("environment", each, ignored) for each in found]
    return bad or [passed("environment", "no variable about TLS that counts here names a missing file")]


def proxy(found: Https) -> Finding:
    if found.unseen:
        return skipped("proxy", f"{found.proxy}, to {found.host}: {found.unseen}")
    if not found.proxy and found.named_by:
        return failed("proxy", f"to {found.host}: {found.error}", _unreachable(found))
    if not found.proxy:
        return passed("proxy", f"none on the way to {found.host}")
    if found.unusable:
        return skipped("proxy", f"{found.proxy}, to {found.host}: {found.error}; see tls")
    if found.error and not found.issuer:
        return failed("proxy", f"{found.proxy}, to {found.host}: {found.error}", _unreachable(found))
    return passed("proxy", f"{found.proxy}, to {found.host}; mail servers are reached without it")


def reached(found: Reached, users: Sequence[str]) -> Finding:
    if not found.error:
        return passed("mail servers", f"{found.host}:{found.port} accepts connections")
    if found.nameless:
        return skipped("mail servers", f"{found.host}:{found.port}: {found.error}; see dns (for {some(users)})")
    verdict = yours("mail-port", f"no connection with {found.host}:{found.port}", reachable(found.port, found.host))
    return failed("mail servers", f"{found.host}:{found.port}: {found.error} (for {some(users)})", verdict)
