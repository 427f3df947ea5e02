"""contrib/cms.el, docs/clients/emacs.md and the Emacs part of the CMS document in a real Emacs, against a real server."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from support.contrib import replaced
from support.fragments import contrib, explains, page, shown
from support.person import USER
from support.programs import require_program
from support.reachable import Installation
from support.servers import MailServers
from support.terminal import Login, login, terminal

# The original CMS's document, "Outbound mail through SMTP", under "Emacs smtpmail".
CMS_DOCUMENT = """
(setq auth-sources '("~/.authinfo"      ; Default auth-source in Emacs (not needed)
                      "secrets:session" ; Use emacs auth-source to interface with libsecret
                      ))

(defun smtpmail-oauth-send-it ()
  (secrets-delete-item "session" "smtp")
  ;; smtpmail xoauth2 is sensitive to newlines
  ;; Use the --no_newline flag if choosing to use shell-command-to-string instead
  (let ((access-token (car (process-lines "cms-oauth"
                                          "--cms_sock=/var/run/user/XXX/cms.sock"
                                          "--proto=SMTP"
                                          "--user=user@domain.com"
                                          "--output=token"))))
    ;; Create item using libsecret
    (secrets-create-item "session" "smtp" access-token
                          :host "smtp.server.address"
                          :port "587"
                          ;; secrets.el only supports strings
                          ;;:smtp-auth "xoauth2" ;; Cannot use because of type mismatch with generic argument
                          :user "user@domain.com")
    )
  (smtpmail-send-it))

(setq message-send-mail-function 'smtpmail-oauth-send-it
      user-full-name "Full Name"
      user-mail-address "user@domain.com"
      smtpmail-default-smtp-server "smtp.server.address"
      smtpmail-auth-supported '(xoauth2)
      smtpmail-smtp-user "user@domain.com"
      smtpmail-smtp-service "587")
"""

# A desktop's Secret Service, for as long as a command runs.
SESSION = """
printf secret | gnome-keyring-daemon --daemonize --unlock --components=secrets
exec "$@"
"""


@pytest.fixture(scope="module")
def signed_in(installation: Installation, servers: MailServers) -> Iterator[Login]:
    """A person with contrib/cms.el."""
    require_program("emacs", "emacs-nox")
    with login(installation, servers) as owner:
        owner.file(".emacs.d/lisp/cms.el", contrib("cms.el"))
        yield owner


def configure(owner: Login, settings: str, **words: str) -> None:
    """Write these settings as init file for the test's server."""
    trust = f"(with-eval-after-load 'gnutls (add-to-list 'gnutls-trustfiles \"{owner.servers.ca_file}\"))\n"
    owner.file(".emacs.d/init.el", trust + settings, **words)


def use_page(owner: Login, **words: str) -> None:
    """Set Emacs up as the page says."""
    usual = {'"smtp.office365.com"': '"localhost"', " 587": f" {owner.servers.submission}"}
    configure(owner, shown("emacs", "init"), **(words | usual))


def use_document(owner: Login) -> None:
    """Set Emacs up as the CMS document says, paths and hosts aside."""
    port = str(owner.servers.submission)
    socket = {"/var/run/user/XXX/cms.sock": str(owner.socket)}
    configure(owner, CMS_DOCUMENT, **socket, **{"smtp.server.address": "localhost", '"587"': f'"{port}"'})


def send(owner: Login, *session: str) -> tuple[subprocess.CompletedProcess[str], str]:
    """Send with the page's test; return how that ended, and the subject."""
    subject = owner.message()[1]
    script = replaced(shown("emacs", "send"), **{'"test"': f'"{subject}"'})
    return owner.run(*session, "sh", "-c", script), subject


def in_session() -> list[str]:
    """Return the words before a command that give it a desktop's Secret Service."""
    require_program("gnome-keyring-daemon", "gnome-keyring")
    return [require_program("dbus-run-session", "dbus-daemon"), "--", "sh", "-c", SESSION, "sh"]


def test_a_message_is_sent(signed_in: Login) -> None:
    """With the page's settings, by the page's test."""
    use_page(signed_in)
    before = signed_in.servers.log().count(f"A=xoauth2:{USER}")

    done, subject = send(signed_in)

    assert 0 == done.returncode, done.stderr
    assert "Sending...done" == done.stderr.splitlines()[-1]
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(USER, subject)
    assert before + 1 == signed_in.servers.log().count(f"A=xoauth2:{USER}")


def test_a_message_is_sent_as_the_cms_document_says(signed_in: Login) -> None:
    """Literally, libsecret and all."""
    use_document(signed_in)

    done, subject = send(signed_in, *in_session())

    assert 0 == done.returncode, done.stderr
    assert f"Return-path: <{USER}>" in signed_in.servers.wait_for_mail(USER, subject)


def test_no_other_server_gets_the_token(signed_in: Login) -> None:
    """A server that is not in `cms-hosts` is sent none, and the page knows what it says to that."""
    use_page(signed_in, **{'cms-hosts \'("smtp.office365.com"': 'cms-hosts \'("elsewhere"'})
    before = signed_in.attempts()

    done, _ = send(signed_in)

    assert 1 == done.returncode
    assert "Client not authenticated to send mail" in done.stderr
    assert "Client not authenticated to send mail" in page("emacs")
    assert before == signed_in.attempts()


@pytest.mark.parametrize("settings", ["page", "document"])
def test_without_a_broker_no_login_is_tried(signed_in: Login, settings: str) -> None:
    """The page explains what Emacs says."""
    use = {"page": use_page, "document": use_document}
    use[settings](signed_in)
    session = in_session() if settings == "document" else []
    signed_in.broker.stop()
    before = signed_in.attempts()
    done, _ = send(signed_in, *session)
    attempts = signed_in.attempts() - before
    signed_in.start_broker()

    assert (1, 0) == (done.returncode, attempts), done.stderr
    if settings == "page":
        assert "(no-daemon)" in done.stderr
        assert explains("emacs", done.stderr)
    else:
        assert "cms-oauth exited with status 69" == done.stderr.splitlines()[-1]
        assert "`cms-oauth exited with status 69`" in page("emacs")


def test_signed_out(signed_in: Login) -> None:
    """On a screen: what cms says is in the echo area, the message still in its buffer, and `C-c C-c` sends it later."""
    require_program("tmux", "tmux")
    use_page(signed_in)
    subject = signed_in.message()[1]
    signed_in.logout()
    before = signed_in.attempts()
    with terminal(signed_in, "emacs", "--eval", f'(message-mail "{USER}" "{subject}")') as window:
        window.wait_for(f"Subject: {subject}")
        window.press("C-c", "C-c")
        said = window.wait_for("(sign-in-required)", f"Subject: {subject}")
        attempts = signed_in.attempts() - before
        signed_in.login()
        window.press("C-c", "C-c")
        arrived = signed_in.servers.wait_for_mail(USER, subject)

    assert explains("emacs", said)
    assert (0, True) == (attempts, bool(arrived))


def test_half_a_token_is_not_shown(signed_in: Login) -> None:
    """What a command printed before it failed stays out of the error: *Messages* would keep it."""
    command = '(setq cms-command \'("sh" "-c" "printf half-a-token; echo why >&2; exit 75") cms-hosts'
    use_page(signed_in, **{"(setq cms-hosts": command})

    done, _ = send(signed_in)

    assert 0 != done.returncode
    assert "why" in done.stderr.splitlines()
    assert "half-a-token" not in done.stdout + done.stderr


def test_without_cms_oauth_in_the_path(signed_in: Login) -> None:
    """The page explains what Emacs says, and `cms-command` is the remedy."""
    use_page(signed_in)
    done, _ = send(signed_in, "env", "PATH=/usr/bin:/bin")
    command = signed_in.broker.installation.command("cms-oauth")
    use_page(signed_in, **{"(setq cms-hosts": f'(setq cms-command \'("{command}") cms-hosts'})
    again, subject = send(signed_in, "env", "PATH=/usr/bin:/bin")

    assert 1 == done.returncode
    assert "Searching for program: No such file or directory, cms-oauth" in done.stderr
    assert "`Searching for program: No such file or directory, cms-oauth`" in page("emacs")
    assert 0 == again.returncode, again.stderr
    assert signed_in.servers.wait_for_mail(USER, subject)


# What a person sees who starts Gnus: how many messages the inbox has, and the newest one.
READ = """
(condition-case problem
    (progn (mapc #'require '(gnus gnus-start gnus-int))
           (setq gnus-always-read-dribble-file nil gnus-use-dribble-file nil)
           (unless (gnus-open-server gnus-select-method)
             (error "%s" (gnus-status-message gnus-select-method)))
           (gnus)
           (let ((newest (cdr (gnus-activate-group "INBOX"))))
             (with-temp-buffer
               (gnus-request-article newest "INBOX" (current-buffer))
               (princ (buffer-string)))))
  (error (message "%s" (error-message-string problem))
         (kill-emacs 1)))
"""


def read_with_gnus(owner: Login, **words: str) -> subprocess.CompletedProcess[str]:
    """Read the newest message as the page says; return how that ended."""
    hosts = {'"outlook.office365.com"': '"localhost"', " 993": f" {owner.servers.imap}"}
    configure(owner, shown("emacs", "init") + shown("emacs", "gnus"), **(words | hosts))
    return owner.run("emacs", "--batch", "--load", str(owner.home / ".emacs.d" / "init.el"), "--eval", READ)


def test_gnus_reads(signed_in: Login) -> None:
    """With the page's settings: a token for IMAP, in one line however long it is."""
    use_page(signed_in)
    done, subject = send(signed_in)
    assert 0 == done.returncode, done.stderr
    signed_in.servers.wait_for_mail(USER, subject)

    done = read_with_gnus(signed_in)

    assert 0 == done.returncode, done.stderr
    assert f"Subject: {subject}" in done.stdout


def test_gnus_does_not_wait_for_a_server_that_refuses_the_token(signed_in: Login) -> None:
    """The server says why, and waits for an answer to that: Gnus gives it, and says that the login failed."""
    done = read_with_gnus(signed_in, **{"(setq cms-hosts": '(setq cms-command \'("echo" "wrong") cms-hosts'})

    assert 1 == done.returncode
    assert "AUTHENTICATIONFAILED" in done.stderr
