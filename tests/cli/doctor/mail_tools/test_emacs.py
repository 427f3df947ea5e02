"""Emacs' init file is read as data: what smtpmail and contrib/cms.el are told, and runs of cms-oauth."""

from __future__ import annotations

import pytest
from support.fragments import shown
from support.mail_files import commands, faults, machine, unread

from cms.cli.doctor.mail_tools.elisp import Form, Symbol, Text, forms
from cms.cli.doctor.mail_tools.emacs import uses
from cms.cli.doctor.mail_tools.found import Command, Login, Use

INIT = ".emacs.d/init.el"
GOOD = shown("emacs", "init")
ASKS = "--user=user@domain.com --proto=SMTP --output=token --no_newline"


def read(text: str, **files: str) -> list[Use]:
    return list(uses(machine({INIT: text, **files})))


def test_lisp_is_data() -> None:
    """Strings, characters, comments, vectors and quotes; a form that does not end is one all the same."""
    code = '(a "x\\"\\n;y" ?\\( ?) [b #\'c] ; d)\n) `(,@e .5)) ) (f "g'
    (first, second, third) = forms(code)

    assert [Symbol("a"), Text('x"\n;y'), Symbol("?\\("), Symbol("?)")] == first.items[:4]
    assert Form(1, [Symbol("b"), Symbol("c")]) == first.items[4]
    assert (2, [Symbol("e"), Symbol(".5")]) == (second.line, second.items)
    assert "f" == third.head
    assert "" == Form(1).head


def test_what_cms_el_asks() -> None:
    """For the user and the command that are configured."""
    (use,) = read(GOOD)
    assert isinstance(use, Command)
    assert (2, ASKS, Login("SMTP", "token", bare=True)) == (use.place.line, " ".join(use.words), use.login)

    more = """(customize-set-variable 'cms-command '("/bin/cms-oauth" "--cms_sock=/x"))"""
    assert [(15, f"--cms_sock=/x {ASKS}")] == commands(read(f"{GOOD}\n{more}"))
    custom = '(custom-set-variables\n \'(cms-command (list "cms-oauth" "--cms_sock=/y")))'
    assert [(16, f"--cms_sock=/y {ASKS}")] == commands(read(f"{GOOD}\n{custom}"))


def test_an_installed_package_is_loaded_by_its_command() -> None:
    """`cms-enable` does what the lines with `require` and `auth-sources` do."""
    enabled = GOOD.replace("(require 'cms)", "(cms-enable)").replace("(add-to-list 'auth-sources 'cms)", "")

    assert [(2, ASKS)] == commands(read(enabled))
    assert [] == faults(read(enabled))


@pytest.mark.parametrize(
    ("old", "new", "cause"),
    [
        ("(add-to-list 'auth-sources 'cms)", "", "auth-sources does not contain cms"),
        ('cms-hosts \'("smtp.office365.com")', "cms-hosts nil", "cms-hosts does not contain smtp.office365.com"),
        ("smtpmail-auth-supported '(xoauth2)", "", "smtpmail-auth-supported does not contain xoauth2"),
        (
            'smtpmail-smtp-user "user@domain.com"',
            "",
            "smtpmail-smtp-user is not set, so smtpmail looks for no credential of its own accord",
        ),
    ],
)
def test_what_can_never_log_in(old: str, new: str, cause: str) -> None:
    """Each is a row of the page's table."""
    assert [cause] == [each for _, each in faults(read(GOOD.replace(old, new)))]


def test_the_ways_to_set_a_variable() -> None:
    """`use-package`, `setopt`, `push`; the last one counts."""
    text = """\
(require 'cms)
(push 'cms auth-sources)
(use-package smtpmail
  :ensure nil
  :custom
  (smtpmail-smtp-server "h")
  (smtpmail-smtp-user "u@x")
  :config (setopt smtpmail-auth-supported '(xoauth2)))
(with-eval-after-load 'cms (setq-default cms-hosts (list "g" "h")))
(setq smtpmail-smtp-user)
(add-to-list) (push) (setq (x) 1) (custom-set-variables x '(y))
"""
    found = read(text)

    assert [(1, "--user=u@x --proto=SMTP --output=token --no_newline")] == commands(found)
    assert [] == faults(found)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ('(process-lines "cms-oauth" "--user=u@x" "--proto=SMTP")', "--user=u@x --proto=SMTP"),
        ('(call-process "/bin/cms-oauth" nil t nil "--user=u@x")', "--user=u@x"),
        ('(call-process-region 1 2 "cms-oauth" nil t nil "--user=u@x" proto)', "--user=u@x …"),
        ('(start-process "x" nil "cms-oauth" "--user=u@x")', "--user=u@x"),
        ('(shell-command-to-string "cms-oauth --user=u@x 2>/dev/null")', "--user=u@x"),
        ('(let ((x (concat "a" (shell-command-to-string (concat "cms-oauth" b))))) x)', ""),
        ('(message "cms-oauth --user=u@x")', ""),
    ],
)
def test_code_that_runs_cms_oauth(code: str, words: str) -> None:
    """A program with its words, or a line for the shell; what is computed is not known."""
    assert ([words] if words else []) == [each for _, each in commands(read(code))]


@pytest.mark.parametrize(
    "load",
    [
        '(load "~/.emacs.d/mail")',
        '(load-file "~/.emacs.d/mail.el")',
        '(load (locate-user-emacs-file "mail.el"))',
        '(load (expand-file-name "mail.el" user-emacs-directory))',
        '(load (concat user-emacs-directory "mail.el"))',
        '(setq custom-file "~/.emacs.d/mail.el")\n(load custom-file)',
        '(load (expand-file-name "~/.emacs.d/mail.el"))',
    ],
)
def test_files_that_are_loaded(load: str) -> None:
    """By a whole name; a name that `load-path` is searched for is not followed, nor one that is computed."""
    found = read(
        f'(require \'cms)\n{load}\n(load "feature")\n(load (f))',
        **{".emacs.d/mail.el": GOOD.replace("(require 'cms)\n", "")},
    )

    assert [ASKS] == [words for _, words in commands(found)]
    assert [] == [*faults(found), *unread(found)]


def test_other_settings_are_nobodys_business() -> None:
    """Without contrib/cms.el, smtpmail may log in as it likes."""
    assert [] == read('(setq smtpmail-smtp-server "h" smtpmail-auth-supported \'(plain))')
    assert [] == read("(require 'cms)")
