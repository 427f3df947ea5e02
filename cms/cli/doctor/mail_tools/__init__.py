"""How the mail programs of this machine ask cms for tokens: found in their files, and compared with what is served.

- A reader for each program (`exim`, `postfix`, `msmtp`, ...) reads its files as the program does, follows what they include,
  and returns `found.Use`s. `shell` and `python_code` find commands in what several programs have in common.
- `judge` turns the uses into findings.

Nothing that a file names is run. All of it is pure: files are read by the functions in `found.Machine`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cms.cli.doctor.mail_tools.aerc import aerc
from cms.cli.doctor.mail_tools.emacs import emacs
from cms.cli.doctor.mail_tools.exim import exim
from cms.cli.doctor.mail_tools.fetchmail import fetchmail
from cms.cli.doctor.mail_tools.found import Machine, Use
from cms.cli.doctor.mail_tools.getmail import getmail
from cms.cli.doctor.mail_tools.git import git
from cms.cli.doctor.mail_tools.mbsync import mbsync
from cms.cli.doctor.mail_tools.msmtp import mpop, msmtp
from cms.cli.doctor.mail_tools.mutt import mutt, neomutt
from cms.cli.doctor.mail_tools.offlineimap import offlineimap
from cms.cli.doctor.mail_tools.postfix import postfix
from cms.cli.doctor.mail_tools.s_nail import s_nail
from cms.cli.doctor.mail_tools.scripts import scripts

READERS: dict[str, Callable[[Machine], Iterator[Use]]] = {
    "exim": exim,
    "Postfix": postfix,
    "msmtp": msmtp,
    "mpop": mpop,
    "mbsync": mbsync,
    "mutt": mutt,
    "neomutt": neomutt,
    "aerc": aerc,
    "getmail": getmail,
    "offlineimap": offlineimap,
    "s-nail": s_nail,
    "Emacs": emacs,
    "git": git,
    "fetchmail": fetchmail,
    # docs/clients/: imapsync, shell and python.
    "scripts": scripts,
}


def uses(machine: Machine) -> list[Use]:
    """Return what the files of all programs ask, each once."""
    return list(dict.fromkeys(use for reader in READERS.values() for use in reader(machine)))
