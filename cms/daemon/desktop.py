"""Shows one notification on the desktop and exits: `python -I -m cms.daemon.desktop`, which the daemon runs like a hook.

It reads the facts from the environment (docs/operations.md) and prints the number of the notification, so that the next
one for the same account can replace it. Only this file imports jeepney: D-Bus stays out of the daemon.

https://specifications.freedesktop.org/notification-spec/
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from html import escape
from typing import Any

from jeepney import DBusAddress, DBusErrorResponse, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

SERVICE = DBusAddress(
    "/org/freedesktop/Notifications",
    bus_name="org.freedesktop.Notifications",
    interface="org.freedesktop.Notifications",
)

# How long to wait for each answer of the notification service. The whole program has the time limit of a hook.
ANSWER_SECONDS = 5.0

LOW, NORMAL, CRITICAL = range(3)

# A critical notice stays until it is dismissed.
TITLES = {
    "sign-in-required": ("Sign in to send mail", CRITICAL),
    "sign-in-due": ("Mail sign-in ends soon", NORMAL),
    "locked": ("Mail waits for a locked keyring", CRITICAL),
    "failing": ("No mail sign-in at the moment", NORMAL),
    "recovered": ("Mail works again", LOW),
    "signed-in": ("Signed in", LOW),
}


def title_of(facts: Mapping[str, str]) -> tuple[str, int]:
    """Return a notification's title and its urgency."""
    title, urgency = TITLES.get(facts.get("CMS_EVENT", ""), ("cms", NORMAL))
    return f"{title}: {facts.get('CMS_ACCOUNT', '')}", urgency


def body_of(facts: Mapping[str, str], *, markup: bool) -> str:
    """Return a notification's text, escaped if the service supports markup."""
    page = facts.get("CMS_PAGE", "")
    lines = [facts.get("CMS_MESSAGE", ""), facts.get("CMS_HINT", ""), f"Sign-in page: {page}" if page else ""]
    text = "\n".join(filter(None, lines))
    return escape(text, quote=False) if markup else text


def show(connection: DBusConnection, facts: Mapping[str, str]) -> int:
    """Show a notification and return its number. Raises DBusErrorResponse if no notification service runs."""
    capabilities = _call(connection, "GetCapabilities")
    title, urgency = title_of(facts)
    replaces = facts.get("CMS_REPLACES", "")
    number: int = _call(
        connection,
        "Notify",
        "susssasa{sv}i",
        (
            "cms",
            int(replaces) if replaces.isdecimal() else 0,
            "mail-unread",
            title,
            body_of(facts, markup="body-markup" in capabilities),
            [],
            {"urgency": ("y", urgency)},
            -1,
        ),
    )
    return number


def _call(connection: DBusConnection, method: str, signature: str | None = None, body: tuple[Any, ...] = ()) -> Any:
    message = new_method_call(SERVICE, method, signature, body)
    return unwrap_msg(connection.send_and_get_reply(message, timeout=ANSWER_SECONDS))[0]


def main() -> int:
    """Show the notification that the environment describes. A desktop without notifications is not an error."""
    try:
        with open_dbus_connection("SESSION") as connection:
            print(show(connection, os.environ))
    except DBusErrorResponse as error:
        print(f"the desktop shows no notifications: {error.name}")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"the desktop's bus cannot be reached: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
