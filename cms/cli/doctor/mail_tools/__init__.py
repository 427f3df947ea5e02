"""How the mail programs of this machine ask cms for tokens: found in their files, and compared with what is served.

- A reader for each program (`exim`, `postfix`, `msmtp`, ...) reads its files as the program does, follows what they include,
  and returns `found.Use`s. `shell` and `python_code` find commands in what several programs have in common.
- `judge` turns the uses into findings.

Nothing that a file names is run. All of it is pure: files are read by the functions in `found.Machine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cms.cli.doctor.mail_tools import (
    aerc,
    emacs,
    exim,
    fetchmail,
    getmail,
    git,
    mbsync,
    msmtp,
    mutt,
    offlineimap,
    postfix,
    s_nail,
    scripts,
)
from cms.cli.doctor.mail_tools.found import Machine, Use

READERS: dict[str, Callable[[Machine], Iterator[Use]]] = {
    "exim": exim.uses,
    "Postfix": postfix.uses,
    "msmtp": msmtp.uses_of_msmtp,
    "mpop": msmtp.uses_of_mpop,
    "mbsync": mbsync.uses,
    "mutt": mutt.uses_of_mutt,
    "neomutt": mutt.uses_of_neomutt,
    "aerc": aerc.uses,
    "getmail": getmail.uses,
    "offlineimap": offlineimap.uses,
    "s-nail": s_nail.uses,
    "Emacs": emacs.uses,
    "git": git.uses,
    "fetchmail": fetchmail.uses,
    # docs/clients/: imapsync, shell and python.
    "scripts": scripts.uses,
}


def uses(machine: Machine) -> list[Use]:
    """Return what the files of all programs ask, each once."""
    return list(dict.fromkeys(use for reader in READERS.values() for use in reader(machine)))
