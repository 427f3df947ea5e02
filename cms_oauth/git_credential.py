"""The `git-credential-cms` command: git's credential helper protocol for mail servers (gitcredentials(7)).

git describes on standard input, in lines `name=value`, where it wants to log in. `get` answers with the user and a fresh
token as the password, only for mail servers. git sends `erase` after a server's refusal: cms then gets another token.
`store` does nothing, since cms always has a fresh token.

If there is no token, the answer is `quit`, so that git does not ask for a password at the terminal. The exception is a
user that git names and cms does not serve: that user may have a password from elsewhere.
"""

import json
import sys

from cms_oauth import dial, fetch, sasl, wire
from cms_oauth import main as client

NAME = "git-credential-cms"

# The scheme that git or curl names -> the protocol that the token is for.
PROTOCOLS = {"smtp": "SMTP", "smtps": "SMTP", "imap": "IMAP", "imaps": "IMAP", "pop3": "POP", "pop3s": "POP"}

_USAGE = f"in git's configuration: helper = cms [--user=USER] [--cms_sock=PATH]; by hand: {NAME} get|store|erase"

# For a person who tries it: git itself never asks.
_HELP = f"""\
usage: {NAME} [--user=USER] [--cms_sock=PATH] get|store|erase

Give git a fresh token from the cms daemon as the password of a mail server.
git runs it, and describes on its standard input where it logs in.

  --user=USER      the account, if git names none
  --cms_sock=PATH  the daemon's socket, if it is not at one of the usual places

Example, in git's configuration: helper = cms --user=user@domain.com
"""

_MISUSED = dial.Failed("bad-request", "unknown or missing arguments", _USAGE)

# The longest input that is read: git may send a token back; nothing else is long.
_LONGEST = 2 * wire.MAX_REPLY


def main() -> int:
    """Run the command with the arguments of this process; return its exit status."""
    try:
        status = answer(sys.argv[1:])
    except KeyboardInterrupt:
        status = client.INTERRUPTED
    return client.leave(status)


def answer(arguments: list[str]) -> int:
    """Answer git, which ends the arguments with what it wants."""
    if arguments and arguments[-1] in ("-h", "--help"):
        return fetch.write(_HELP)
    options, action = read(arguments[:-1]), "".join(arguments[-1:])
    if isinstance(options, dial.Failed) or not action or action.startswith("-"):
        return _report(_MISUSED)
    asked = _asked(sys.stdin.buffer.read(_LONGEST))
    protocol = PROTOCOLS.get(asked.get("protocol", ""), "")
    # gitcredentials(7): a helper must ignore an action that it does not know.
    if not protocol or action not in ("get", "erase"):
        return 0
    options.protocol = protocol
    named = asked.get("username", "")
    options.user = named or options.user
    return _get(options, named) if action == "get" else _erase(options, asked.get("password", ""))


def read(arguments: list[str]) -> fetch.Options | dial.Failed:
    """Return the options of a helper as git's configuration names it, or why they are refused."""
    options = client.read_exactly(arguments)
    allowed = fetch.Options(user=options.user, socket=options.socket) if options else None
    return options if options and options == allowed else _MISUSED


def _asked(description: bytes) -> dict[str, str]:
    text = description.decode(errors="surrogateescape")
    return dict(line.split("=", 1) for line in text.split("\n") if "=" in line)


def _get(options: fetch.Options, named: str) -> int:
    options.output = "json"
    granted = fetch.fetch(options, dial.now() + wire.CLIENT_SECONDS)
    if isinstance(granted, dial.Failed):
        if not (named and granted.code == "unknown-account"):
            fetch.write("quit=1\n")
        return _report(granted)
    lines = [f"username={granted.user}", f"password={granted.token}"]
    expires_at = json.loads(granted.document).get("expires_at")
    if isinstance(expires_at, int):
        # git 2.41 and newer drop the password then; older versions ignore the line.
        lines.append(f"password_expiry_utc={expires_at}")
    return fetch.write("".join(f"{line}\n" for line in lines))


def _erase(options: fetch.Options, refused: str) -> int:
    """Make cms replace a refused token. git tells every helper of a refusal, so anything that is not a token is ignored."""
    if not sasl.is_token(refused):
        return 0
    replaced = fetch.fetch(options, dial.now() + wire.CLIENT_SECONDS, refused)
    return _report(replaced) if isinstance(replaced, dial.Failed) else 0


def _report(failed: dial.Failed) -> int:
    return fetch.report(failed, NAME)


if __name__ == "__main__":
    sys.exit(main())
