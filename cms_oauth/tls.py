"""TLS to other machines: the one context of the grant worker, the client's tests and the doctor, and whom it trusts."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from cms_oauth.frozen import dataclass

# Variables that name certificate authorities, in the order in which they count for login hosts. The first two are of
# requests, which does not work where they are wrong. The others are OpenSSL's, which ignores them then.
BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
OPENSSLS = ("SSL_CERT_FILE", "SSL_CERT_DIR")

# OpenSSL's variables for its configuration and its providers. The grant worker never gets them.
SETTINGS = ("OPENSSL_CONF", "OPENSSL_MODULES")

# What names the authorities of the configuration.
DIRECTIVE = "Tls(ca=...)"

_FOLDERS = ("SSL_CERT_DIR", "OPENSSL_MODULES")

# The names that OpenSSL looks for in a folder of authorities: the hash of the certificate's subject.
_HASHED = re.compile(r"[0-9a-f]{8}\.\d+")

_REHASH = "where no certificate has its hash as its name (`openssl rehash FOLDER`)"

_PEM = re.compile(rb"-----BEGIN (X509 |TRUSTED )?CERTIFICATE-----")


class Unusable(OSError):
    """Certificate authorities that cannot be loaded. The text says what names them, and what is wrong with that."""

    def __init__(self, named_by: str, why: str) -> None:
        super().__init__(f"{named_by} {why}")
        self.named_by = named_by


@dataclass(frozen=True, slots=True)
class Authorities:
    """The certificate authorities to trust: a file or a folder, "" for the system's. `named_by` is what names them.

    `ignored` has a sentence about each variable that counts before these, and is wrong.
    """

    path: str = ""
    named_by: str = ""
    ignored: tuple[str, ...] = ()


SYSTEMS = Authorities()


def authorities(ca: str | None, environ: Mapping[str, str]) -> Authorities:
    """Return whom to trust about login hosts: those of the configuration (`ca`), of the environment, or certifi's."""
    # Imported here, because the client's tests do without it.
    import certifi  # noqa: PLC0415

    if ca:
        return Authorities(ca, DIRECTIVE)
    named = [name for name in (*BUNDLES, *OPENSSLS) if environ.get(name)]
    good = (name for name in named if name in BUNDLES or not misnamed(environ, (name,)))
    name = next(good, "")
    ignored = misnamed(environ, named[: named.index(name)] if name else named)
    return Authorities(environ[name], name, ignored) if name else Authorities(certifi.where(), "certifi", ignored)


def client_context(trusted: Authorities = SYSTEMS) -> ssl.SSLContext:
    """Return what verifies the other side's certificate and host name, with TLS 1.2 or newer. Raises Unusable.

    Not `create_default_context`: that writes the session's keys where SSLKEYLOGFILE says, and since Python 3.13 it refuses
    the certificates of many companies' authorities for details that no other program minds (RFC 5280's rules about key
    identifiers, key usage and critical extensions). An authority that is named counts also if it is an intermediate one.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if not trusted.path:
        context.load_default_certs()
        return context
    for why in _faults(trusted.named_by, trusted.path):
        raise Unusable(trusted.named_by, why)
    is_file = Path(trusted.path).is_file()
    try:
        context.load_verify_locations(*(trusted.path, None) if is_file else (None, trusted.path))
    except OSError as error:
        why = f"names {trusted.path}, which has a certificate that cannot be read: {error.strerror or error}"
        raise Unusable(trusted.named_by, why) from None
    return context


def misnamed(environ: Mapping[str, str], names: Iterable[str]) -> tuple[str, ...]:
    """Return a sentence about each of these variables that names what is not there, or cannot be used."""
    return tuple(
        f"{name} {why}"
        for name in names
        for why in _faults(name, environ.get(name, ""))
        # OpenSSL needs one of its two variables only: people name an empty folder to have nothing but the file.
        if not (why.endswith(_REHASH) and environ.get("SSL_CERT_FILE"))
    )


def _faults(name: str, value: str) -> list[str]:
    """Return what is wrong with the value of a variable. Of several folders, one that is good is enough."""
    parts = [part for part in (value.split(":") if name == "SSL_CERT_DIR" else [value]) if part]
    found = [_fault(name, Path(part).absolute()) for part in parts]
    return found if all(found) else []


def _fault(name: str, path: Path) -> str:
    """Return what is wrong with what is at `path`, "" for nothing."""
    try:
        if path.is_dir():
            return _fault_of_folder(name, path)
        if name in _FOLDERS and path.stat():
            return f"names {path}, which is no folder"
        # A pipe can be read once only.
        if path.exists() and not path.is_file():
            return ""
        certificates = _PEM.search(path.read_bytes())
    except FileNotFoundError:
        return f"names {path}, which does not exist"
    except OSError as error:
        return f"names {path}, which cannot be read: {error.strerror}"
    return "" if certificates or name == "OPENSSL_CONF" else f"names {path}, which has no certificate in PEM form"


def _fault_of_folder(name: str, path: Path) -> str:
    if name in ("SSL_CERT_FILE", "OPENSSL_CONF"):
        return f"names {path}, which is a folder"
    names = [each.name for each in path.iterdir()]
    if name == "OPENSSL_MODULES" or any(map(_HASHED.fullmatch, names)):
        return ""
    return f"names {path}, {_REHASH}"


def reason_of(error: BaseException) -> tuple[str, bool]:
    """Return OpenSSL's reason for a failure, "" if it is no failure of TLS; and whether a certificate was not trusted.

    `error` may be wrapped, as the libraries for HTTP do.
    """
    for each in _wrapped(error):
        if isinstance(each, ssl.SSLCertVerificationError):
            return getattr(each, "verify_message", "") or str(each), True
        if isinstance(each, ssl.SSLError):
            # An end without a reason has a sentence, with the line of CPython's source behind it.
            said = getattr(each, "reason", "") or (each.strerror or str(each)).partition(" (_ssl.c:")[0]
            return said.replace("_", " ").lower(), False
    return "", False


def _wrapped(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception, and those that it is made of."""
    while error is not None:
        yield error
        inside = (each for each in error.args if isinstance(each, BaseException))
        error = error.__cause__ or error.__context__ or next(inside, None)
