"""contrib/cms.el as a package of Emacs: installed from the file, loaded by its command, and what it asks cms for."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.contrib import ROOT
from support.programs import require_program

from cms_oauth.version import VERSION

FILE = ROOT / "contrib" / "cms.el"

# What Emacs asks for where a mail program of its own names these ports.
_ASK = """
(progn (package-initialize)
       (cms-enable)
       (require 'auth-source)
       (setq cms-command '("echo"))
       (dolist (port '(587 "465" ("imaps" "imap" "993" "143") 993 "pop3s"))
         (let ((found (auth-source-search :host '("work" "outlook.office365.com") :port port :user "a@b.test" :max 1
                                          :require '(:user :secret))))
           (princ (funcall (plist-get (car found) :secret)))))
       (princ (auth-source-search :host "elsewhere.test" :user "a@b.test" :max 1)))
"""


def emacs(home: Path, *expressions: str) -> str:
    """Run Lisp in an Emacs that has installed nothing but what these have; return what it prints."""
    program = require_program("emacs", "emacs-nox")
    folder = f"(setq package-user-dir {str(home / 'elpa')!r})".replace("'", '"')
    words = [word for each in ("(require 'package)", folder, *expressions) for word in ("--eval", each)]
    done = subprocess.run(
        [program, "-Q", "--batch", *words],
        capture_output=True,
        text=True,
        check=False,
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
    )
    assert 0 == done.returncode, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with the package; a warning of the compiler is a failure."""
    home = tmp_path_factory.mktemp("emacs")
    emacs(home, "(setq byte-compile-error-on-warn t)", f'(package-install-file "{FILE}")')
    return home


def test_it_is_installed_as_this_version(installed: Path) -> None:
    """Compiled, with what loads it when it is needed."""
    folder = installed / "elpa" / f"cms-{VERSION}"

    assert {"cms.el", "cms.elc", "cms-autoloads.el", "cms-pkg.el"} == {path.name for path in folder.iterdir()}
    assert "cms-enable" in (folder / "cms-autoloads.el").read_text()


def test_a_token_is_for_the_protocol_of_the_port(installed: Path) -> None:
    """SMTP's for smtpmail, IMAP's for Gnus; no server that is not in `cms-hosts` gets one."""
    *asked, nothing = emacs(installed, _ASK).split("\n")

    usual = "--user=a@b.test --proto={} --output=token --no_newline"
    assert [usual.format(name) for name in ("SMTP", "SMTP", "IMAP", "IMAP", "POP")] == asked
    assert "nil" == nothing


def test_its_documentation_is_as_emacs_wants_it() -> None:
    """checkdoc finds nothing in it."""
    program = require_program("emacs", "emacs-nox")
    done = subprocess.run(
        [program, "-Q", "--batch", "--eval", f'(checkdoc-file "{FILE}")'], capture_output=True, text=True, check=True
    )

    assert "" == done.stderr
