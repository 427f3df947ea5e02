"""Words and exit codes that the daemon and the `cms` command have in common.

The command needs them to show what a daemon answers. Programs run it often, so this file imports next to nothing.
"""

from cms_oauth.text import printable

# Exit codes that monitoring systems of the Nagios family understand.
OK, WARNING, CRITICAL, UNKNOWN = range(4)
_SEVERITIES = ("OK", "WARNING", "CRITICAL", "UNKNOWN")

# The states of an account, the worst first: those that last until a person acts, what a person is at, what ends by itself.
WORST_FIRST = ("sign-in-required", "refused", "locked", "signing-in", "failing", "starting", "renewing", "ok")

# Shown for an account without a configured user until a person signs in to it.
NAMELESS = "(not signed in yet)"

MEMORY_WARNING = (
    "sign-ins are kept in MEMORY ONLY: when cms or its worker ends, all users have to sign in again; "
    "Vault(key=...) in the configuration names a place for a key"
)

NOT_SHARED = (
    "NOT YET SHARED with the fleet, because the database could not be asked: this host's journal has the newest refresh"
    " token, and shares it when the database answers"
)


def duration(seconds: float) -> str:
    """Return a length of time in its two largest units: `1 h 5 min`, `2 d 3 h`, `40 s`."""
    left, parts = max(0, int(seconds)), []
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def stored_sign_in(key: str, authority: str, client_id: str, name: str) -> str:
    """Return a sign-in in the vault as a line of a list. Without `authority`, nothing of it can be read but its name."""
    if not authority:
        return f"a file that cannot be read now ({key}.vault)"
    return f"{name or '(unknown user)'}: {authority}, application {client_id}"


def plugin_line(code: int, said: str, perfdata: str = "") -> str:
    """Return what a plugin of Nagios or Icinga prints: its status, what is wrong, and numbers for graphs behind a bar."""
    # A bar in what is said would end it.
    text = f"CMS {_SEVERITIES[code]} - {printable(said).replace('|', '/')}"
    return f"{text} | {perfdata}" if perfdata else text
