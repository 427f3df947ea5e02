"""Opens what another program has stored (a file, a GPG file or a keyring entry) and finds the sign-in that is meant.

Nothing of what is read is ever quoted.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from cms.core.accounts import Grant, StoredSignIn, is_named
from cms.grants.messages import Place
from cms.grants.secret_sources import Locked, Missing, run_command
from cms.grants.transfer import decrypt, export_file, formats
from cms.grants.transfer.formats import Found, Unfit
from cms.grants.vault.keyring import Keyring
from cms.system.files import read_regular
from cms_oauth.expand import literal
from cms_oauth.moves import Command, Move, Run, cms

# An MSAL cache of many accounts has some hundred KB, an export of a thousand sign-ins some MB.
MAX_FILE = 8 * 1024 * 1024

# As mutt_oauth2.py and oama call it. --batch: there is no terminal here; gpg-agent asks where it has a display.
GPG = ("gpg", "--quiet", "--batch", "--decrypt", "--")

# gpg-agent may ask for a passphrase; this leaves some of messages.QUESTION_SECONDS for the provider.
GPG_SECONDS = 20.0

_ARMOUR = b"-----BEGIN PGP MESSAGE-----"
# RFC 4880, section 4.2: the first byte of a packet has its highest bit set; then comes the kind. A message begins with
# a session key, encrypted for a person (1) or under a passphrase (3), or with encrypted data (9, 18).
_PACKET = 0x80
_NEW_FORMAT = 0x40
_ENCRYPTED_KINDS = (1, 3, 9, 18)

# oama's attribute in the Secret Service; its value is the mail address.
OAMA_ATTRIBUTE = "oama"


class NoPassword(Exception):
    """What was found is encrypted, and no password was given."""


def find(place: Place, grant: Grant, environ: Mapping[str, str] = os.environ) -> Found:
    """Return the sign-in that is meant, decrypted. Raises Unfit, and NoPassword where a person has to type one."""
    return _unsealed(formats.choose(_all(place, environ), grant, place.entry, place.path), place)


def listed(place: Place, environ: Mapping[str, str] = os.environ) -> list[StoredSignIn]:
    """Return whose sign-ins another program keeps there, or which one `entry` means. Raises Unfit."""
    found = _all(place, environ)
    return [
        StoredSignIn("", each.host, each.client_id, each.user, provider=each.provider)
        for each in found
        if each.refresh_token and (not place.entry or is_named(place.entry, each.name, each.user))
    ]


def _all(place: Place, environ: Mapping[str, str]) -> list[Found]:
    if place.source not in ("", *formats.FORMATS):
        raise Unfit(f"cms knows no format {place.source[:40]!r}", f"the formats are {', '.join(formats.FORMATS)}")
    return formats.read(_contents(place, environ), place.source, place.path)


def exported(place: Place) -> list[export_file.ExportedSignIn]:
    """Return what an export of cms's own holds. Raises Unfit, and NoPassword where a person has to type the passphrase."""
    raw = _read(place.path)
    if not place.password and export_file.is_export(raw):
        raise NoPassword
    return export_file.decrypt(raw, place.password, place.path)


def _contents(place: Place, environ: Mapping[str, str]) -> bytes:
    """Return what the program itself would read: decrypted where its way of storing is."""
    path = place.path
    if not path.startswith("/"):
        kept = _oama_file(path, environ)
        if not kept.exists():
            return _from_keyring(path)
        path = str(kept)
    raw = _read(path)
    if export_file.is_export(raw):
        raise Unfit(
            f"{path} is an export of cms's own",
            Move(Run((cms("import", "--from", export_file.SOURCE, literal(path)),))),
        )
    dump = decrypt.open_pizauth(raw)
    if dump is not None:
        return dump
    return _from_gpg(path) if is_gpg(raw) else raw


def _oama_file(name: str, environ: Mapping[str, str]) -> Path:
    state = environ.get("XDG_STATE_HOME") or f"{environ.get('HOME', '')}/.local/state"
    return Path(state) / "oama" / f"{name}.oama"


def _read(path: str) -> bytes:
    try:
        raw = read_regular(path, MAX_FILE + 1)
    except OSError as error:
        raise Unfit(f"{path} cannot be read: {error.strerror}", _reader(path)) from None
    if len(raw) > MAX_FILE:
        raise Unfit(f"{path} is larger than any file that holds sign-ins", "name the right file")
    return raw


def _reader(path: str) -> str:
    return f"check the path, and that uid {os.geteuid()}, whose cms opens it, may read {path}"


def is_gpg(raw: bytes) -> bool:
    """Say whether these bytes are an encrypted OpenPGP message."""
    if raw.startswith(_ARMOUR):
        return True
    first = raw[0] if raw else 0
    kind = first & 0x3F if first & _NEW_FORMAT else (first & 0x3F) >> 2
    return bool(first & _PACKET) and kind in _ENCRYPTED_KINDS


def _from_gpg(path: str) -> bytes:
    hint = f"try `{Command(('gpg', '--decrypt', str(path)))} > /dev/null` as the same user: once that asks no more, import again"
    try:
        return run_command((*GPG, path), GPG_SECONDS, MAX_FILE)
    except Missing as missing:
        raise Unfit(f"{path} is encrypted, and gpg {missing}", hint) from None


def _from_keyring(name: str) -> bytes:
    try:
        return Keyring().recall({OAMA_ATTRIBUTE: name})
    except Missing as missing:
        hint = "unlock the keyring, then import again" if isinstance(missing, Locked) else _where(name)
        raise Unfit(f"the keyring with oama's entry for {name} {missing}", hint) from None


def _where(name: str) -> str:
    return f"oama must have signed in {name}, as the same user; a GPG file of oama's is named by its path"


def _unsealed(found: Found, place: Place) -> Found:
    if found.encryption is None:
        return found
    if not place.password:
        raise NoPassword
    opened = decrypt.open_fernet(found.refresh_token, found.encryption, place.password)
    if opened is None:
        raise Unfit(
            f"the password does not open the sign-in of {found.called} in {place.path}",
            f"it is the one that the mail program logs in to {found.program} with; import again",
        )
    return replace(found, refresh_token=opened, encryption=None)
