"""What it means that a TLS certificate is not trusted: who has to act, at a mail server and at a login host.

A row is found by OpenSSL's reason, which is always shown as well. Pure.
"""

from __future__ import annotations

import re
from dataclasses import replace

from cms_oauth.diagnosis.verdicts import Verdict, fill_in, printable
from cms_oauth.frozen import dataclass
from cms_oauth.microsoft import clouds_of_server
from cms_oauth.moves import Command, Move, fill

_AT_ONCE = "immediately"

_SHOWN = "to see it: {show}"
_TRUST = "for your own CA, or behind a proxy that intercepts TLS, set SSL_CERT_FILE"
_CLOCK = "check this machine's clock: `timedatectl` (`timedatectl set-ntp true` sets it)"

EXPIRED = Verdict(
    "certificate-expired",
    "The TLS certificate of {host} has expired, or this machine's clock is wrong: both look the same.",
    "you",
    (_CLOCK, "if the clock is right: {owner} has to renew the certificate", _SHOWN),
    _AT_ONCE,
    "",
    ("certificate has expired", "expired certificate"),
)
NOT_YET_VALID = Verdict(
    "certificate-not-yet-valid",
    "The TLS certificate of {host} is not valid yet, or this machine's clock is wrong: both look the same.",
    "you",
    (_CLOCK, "if the clock is right: {owner} has to use a certificate that is valid now", _SHOWN),
    _AT_ONCE,
    "",
    ("certificate is not yet valid",),
)
OTHER_NAME = Verdict(
    "certificate-for-another-name",
    "The TLS certificate is valid, but for other host names than {host}.",
    "you",
    (
        "use a host name that the certificate has",
        _SHOWN,
        "if {host} is the right name: {owner} has to get a certificate with that name",
    ),
    _AT_ONCE,
    "",
    ("Hostname mismatch", "IP address mismatch", "certificate is not valid for"),
)
SELF_SIGNED = Verdict(
    "certificate-self-signed",
    "{host} has signed its TLS certificate itself, so that no authority says whose it is.",
    "you",
    (
        "if the server is yours: put its certificate into a file, and set SSL_CERT_FILE to the file's name",
        "if it is not: {owner} has to get a certificate from an authority",
        _SHOWN,
    ),
    _AT_ONCE,
    "",
    ("self-signed certificate", "self signed certificate"),
)
MISNAMED = Verdict(
    "certificate-authorities-misnamed",
    "A variable names certificate authorities that cannot be used, so that no authority is known; the message names it.",
    "you",
    (
        "correct the variable, or unset it, where the program is started: `unset SSL_CERT_FILE SSL_CERT_DIR`",
        "to see what the shell has: `env | grep -E 'CERT|BUNDLE|OPENSSL'`",
    ),
    _AT_ONCE,
    "",
    ("SSL_CERT_FILE names", "SSL_CERT_DIR names", "which does not exist"),
)
CERTIFICATE = Verdict(
    "certificate",
    "The TLS certificate of {host} is not trusted: its authority is unknown to this machine, or the server does not send"
    " the certificates between that and its own, or a proxy in between has replaced it.",
    "you",
    (
        _TRUST,
        "if other machines know the authority: {owner} has to send the whole chain",
        _SHOWN,
    ),
    _AT_ONCE,
    "",
    (
        "CERTIFICATE_VERIFY_FAILED",
        "unable to get local issuer certificate",
        "unable to verify the first certificate",
        "self-signed certificate in certificate chain",
    ),
)
TOO_WEAK = Verdict(
    "certificate-too-weak",
    "The key or the signature of the TLS certificate is too weak for this machine's OpenSSL.",
    "you",
    ("ask {owner} for a certificate with a key of 2048 bits and SHA-256, or better", _SHOWN),
    _AT_ONCE,
    "",
    ("EE certificate key too weak", "CA certificate key too weak", "CA signature digest algorithm too weak"),
)
INVALID = Verdict(
    "certificate-invalid",
    "The TLS certificate of {host}, or one of its authorities', is not made as certificates must be.",
    "you",
    ("tell {owner} OpenSSL's reason: the certificate has to be made anew", _TRUST, _SHOWN),
    _AT_ONCE,
    "",
    ("invalid CA certificate", "unsuitable certificate purpose", "path length constraint exceeded"),
)

# What a wrong clock explains as well: where it is known to be wrong, that comes first.
OF_TIME = {EXPIRED, NOT_YET_VALID}


@dataclass(frozen=True, slots=True)
class CertificateRow:
    """OpenSSL's reason, what it means at a mail server, and what to do about it at a login host."""

    pattern: str
    verdict: Verdict
    login: tuple[str, ...]


_BETWEEN = "a proxy in between probably answers for {host}"
_PERHAPS = f"{_BETWEEN}, since a login host's own is renewed in time"
_INSPECTED = "behind a proxy that inspects TLS, name its certificate authority: Tls(ca=...)"

# The first row that matches counts; the last one matches everything.
ROWS = (
    CertificateRow(
        r"has expired",
        EXPIRED,
        (_CLOCK, f"if it is right, {_PERHAPS}: the proxy's administrator has to renew the certificate"),
    ),
    CertificateRow(
        r"not yet valid",
        NOT_YET_VALID,
        (_CLOCK, f"if it is right, {_PERHAPS}: the proxy's administrator has to use a certificate that is valid now"),
    ),
    CertificateRow(
        r"certificate is not valid for|host ?name mismatch|address mismatch",
        OTHER_NAME,
        (
            "a captive portal or a proxy in between answers for {host}: sign in to the network, or ask its administrator",
        ),
    ),
    CertificateRow(
        "|".join(f"{name} names" for name in ("SSL_CERT_FILE", "SSL_CERT_DIR")),
        MISNAMED,
        ("correct the variable, or unset it, where cms is started, and start it again",),
    ),
    CertificateRow(
        r"self.signed certificate(?! in)", SELF_SIGNED, (f"a captive portal may be in between; {_INSPECTED}",)
    ),
    CertificateRow(
        r"too weak",
        TOO_WEAK,
        (f"{_BETWEEN}: ask its administrator for a certificate with a key of 2048 bits and SHA-256, or better",),
    ),
    CertificateRow(
        r"invalid|unsuitable|unsupported|path length|missing|key usage|basic constraints|critical|signature failure",
        INVALID,
        (f"{_BETWEEN}: tell its administrator OpenSSL's reason, the certificate has to be made anew",),
    ),
    CertificateRow(r"", CERTIFICATE, (_INSPECTED,)),
)


def owner(host: str) -> str:
    """Return who has to act where the certificate of a mail server is at fault."""
    if clouds_of_server(host):
        return "Microsoft (or, if a proxy in between has replaced it, the proxy's administrator)"
    return f"the administrator of {printable(host) or 'HOST'}"


# What OpenSSL calls the protocols.
_STARTTLS = {"smtp": "smtp", "imap": "imap", "pop": "pop3"}


def shown_by(protocol: str, host: str, port: int, *, starttls: bool) -> Command:
    """Return the command that shows the certificate of a mail server."""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    upgraded = ("-starttls", _STARTTLS[protocol]) if starttls else ()
    return Command(("openssl", "s_client", "-connect", place, *upgraded, "-showcerts"))


def at_login(reason: str, host: str) -> Verdict:
    """Return what OpenSSL's reason means where the certificate is a login host's."""
    return of_login(next(row for row in ROWS if re.search(row.pattern, reason, re.IGNORECASE)), host)


def of_login(row: CertificateRow, host: str) -> Verdict:
    """Return a row's verdict with the steps for a login host."""
    return fill_in(replace(row.verdict, steps=row.login), {"host": host})


def login_move(reason: str, host: str) -> Move:
    """Return the same as one line: cms goes on trying."""
    return fill("{steps}; {retries}", {"steps": "; ".join(map(str, at_login(reason, host).steps))})
