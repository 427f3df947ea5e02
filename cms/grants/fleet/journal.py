"""The journals of one host: of each sign-in that it has redeemed, what it was given last, until it redeems it again.

They are vault files in their own folder, `STATE/fleet`, whose header also says which generation of which lineage it
is. A successor is in the journal before it is in the database: if that cannot be reached, or loses what it had, this host
brings it. A journal is never redeemed by itself.

`STATE/fleet/host` names this host, so that a worker knows the claim of an earlier one.
"""

from __future__ import annotations

import os
import socket
import uuid
from contextlib import suppress
from dataclasses import field
from pathlib import Path

from cms.core.accounts import Grant
from cms.grants.fleet.sealing import Keys
from cms.grants.secret_sources import Unavailable, storage
from cms.grants.vault.entry_file import (
    MAX_FILE,
    Contents,
    Entry,
    EntryFile,
    StateFolder,
    contents,
    grant_of,
    identity,
    key_needed,
    parse_header,
    seal,
)
from cms.grants.vault.keyring import Key
from cms.grants.vault.minted import MintedToken
from cms.system.files import read_regular, write_private
from cms_oauth.frozen import dataclass

FOLDER = "fleet"
_HOST = "host"

# How long a host may be away and still bring back a sign-in whose row was lost. A sign-out is remembered for as long.
LONGEST_AWAY = 30 * 86_400.0

_MACHINE = Path("/etc/machine-id")


@dataclass(frozen=True, slots=True)
class Journal:
    """A journal as it is on disk: which generation of which lineage of this grant."""

    grant: Grant
    lineage: str
    generation: int
    raw: bytes = field(repr=False)

    def open(self, keys: Keys) -> Contents:
        """Return what it holds. Raises ValueError, and Unavailable without its key."""
        named = _header(self.grant, self.lineage, self.generation)
        return contents(self.raw, keys.need(key_needed(named, self.raw)))


def sealed(grant: Grant, version: tuple[str, int], entry: Entry, key: Key, tokens: tuple[MintedToken, ...]) -> bytes:
    """Return the bytes of a journal. `version` is the lineage and the generation."""
    return seal(_header(grant, *version), entry, key, tokens)


def _header(grant: Grant, lineage: str, generation: int) -> dict[str, str | int]:
    return {**identity(grant), "lineage": lineage, "generation": generation}


class Journals:
    """All journals of a state folder."""

    def __init__(self, state_folder: Path, patience: float) -> None:
        self.folder = StateFolder(state_folder / FOLDER, patience)
        self._host = ""

    def host(self) -> str:
        """Return the id of this host. Raises Unavailable.

        A state folder that was copied to another machine is another host: each would take the other's claims for its own.
        """
        if not self._host:
            self.folder.make()
            path = self.folder.path / _HOST
            try:
                if not path.exists():
                    with suppress(FileExistsError):
                        write_private(path, f"{uuid.uuid4()}\n".encode(), place=os.link)
                made = read_regular(path, MAX_FILE).strip()
                machine = _MACHINE.read_bytes().strip() if _MACHINE.exists() else b""
                self._host = str(uuid.uuid5(uuid.UUID(made.decode()), f"{machine.decode()} {socket.gethostname()}"))
            except (ValueError, UnicodeError):
                path.unlink(missing_ok=True)
                return self.host()
            except OSError as error:
                raise storage(error, f"{path} cannot be used") from None
        return self._host

    def file(self, grant: Grant) -> EntryFile:
        """Return the file of a grant's journal, whose lock is held."""
        return EntryFile(self.folder, grant.key)

    def names(self) -> list[str]:
        """Return the keys of the grants that have a journal."""
        return sorted(path.stem for path in self.folder.path.glob("*.vault"))

    def find(self, name: str) -> Journal | None:
        """Return the journal of a grant, named by its key; None if there is none that can be read."""
        try:
            raw = read_regular(self.folder.path / f"{name}.vault", MAX_FILE)
            head, end, _ = raw.partition(b"\n")
            header = parse_header(head + end)
            grant, lineage, generation = grant_of(raw), header["lineage"], header["generation"]
        except (OSError, ValueError, KeyError):
            return None
        if grant.key != name or type(generation) is not int or not isinstance(lineage, str):
            return None
        return Journal(grant, lineage, generation, raw)

    def drop(self, journal: Journal) -> None:
        """Delete a journal whose sign-in is no more, unless it is in use or another has taken its place."""
        name = journal.grant.key
        with suppress(Unavailable, OSError), self.folder.lock(name, patience=0.0):
            if self.find(name) == journal:
                self.delete(journal.grant)

    def delete(self, grant: Grant) -> None:
        """Delete the journal of a grant, whose lock is held. Raises OSError."""
        path = self.folder.path / f"{grant.key}.vault"
        for each in (path, path.with_suffix(".redeeming")):
            each.unlink(missing_ok=True)
