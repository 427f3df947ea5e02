"""Shows one notification on the desktop: `python -I -m cms.daemon.desktop`, which the daemon runs for each.

It reads the facts from the environment (docs/operations.md) and prints the number of the notification, so that the next
one for the same account can replace it. It ends then, or, if the notification has a button, when that was pressed, or the
notification closed. Only this file imports jeepney: D-Bus stays out of the daemon.

https://specifications.freedesktop.org/notification-spec/
"""

from __future__ import annotations

import os
import sys
import time
import webbrowser
from collections import deque
from collections.abc import Mapping
from html import escape
from typing import Any
from urllib.parse import urlsplit

from jeepney import DBusAddress, DBusErrorResponse, HeaderFields, MatchRule, Message, message_bus, new_method_call
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from jeepney.wrappers import unwrap_msg

from cms.system.tcp_owner import is_held_by
from cms.system.users import own_uid
from cms_oauth.providers import titled

SERVICE = DBusAddress(
    "/org/freedesktop/Notifications",
    bus_name="org.freedesktop.Notifications",
    interface="org.freedesktop.Notifications",
)

# What opens an address outside of the daemon's service, whose end would end the browser.
# https://flatpak.github.io/xdg-desktop-portal/
PORTAL = DBusAddress(
    "/org/freedesktop/portal/desktop",
    bus_name="org.freedesktop.portal.Desktop",
    interface="org.freedesktop.portal.OpenURI",
)
SIGNALS = MatchRule(type="signal", interface=SERVICE.interface, path=SERVICE.object_path)

# What the button says. A click on the notification itself is "default".
ACTIONS = ["default", "Sign in", "sign-in", "Sign in"]

# How long a button works. A sign-in that is still wanted is shown again after that time (DESKTOP in hooks.py).
BUTTON_SECONDS = 4 * 60 * 60.0

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
    return f"{title}: {facts.get('CMS_ACCOUNT', '')}{titled(facts.get('CMS_PROVIDER', ''))}", urgency


def body_of(facts: Mapping[str, str], *, markup: bool) -> str:
    """Return a notification's text, escaped if the service supports markup."""
    page = facts.get("CMS_PAGE", "")
    lines = [facts.get("CMS_MESSAGE", ""), facts.get("CMS_HINT", ""), f"Sign-in page: {page}" if page else ""]
    text = "\n".join(filter(None, lines))
    return escape(text, quote=False) if markup else text


def link_of(facts: Mapping[str, str]) -> str:
    """Return what a notification's button opens, "" if it has none: the daemon lets only some have one (CMS_BUTTON)."""
    return (facts.get("CMS_PAGE") or facts.get("CMS_URL") or "") if facts.get("CMS_BUTTON") else ""


def is_there(link: str, facts: Mapping[str, str]) -> bool:
    """False for a sign-in page that was closed since: another user's program may listen at its port now."""
    return link != facts.get("CMS_PAGE") or is_held_by(own_uid(), urlsplit(link).port or 80)


def show(connection: DBusConnection, facts: Mapping[str, str], capabilities: list[str]) -> int:
    """Show a notification and return its number. Raises DBusErrorResponse if no notification service runs."""
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
            ACTIONS if link_of(facts) and "actions" in capabilities else [],
            {"urgency": ("y", urgency)},
            -1,
        ),
    )
    return number


def pressed(connection: DBusConnection, signals: deque[Message], number: int, seconds: float = BUTTON_SECONDS) -> bool:
    """Wait until the notification's button is pressed. False if the notification is closed, or after this time."""
    ends = time.monotonic() + seconds
    try:
        while True:
            signal = connection.recv_until_filtered(signals, timeout=ends - time.monotonic())
            match signal.header.fields.get(HeaderFields.member), signal.body:
                case "ActionInvoked", (which, _) if which == number:
                    return True
                case "NotificationClosed", (which, _) if which == number:
                    return False
    except TimeoutError:
        return False


def open_link(connection: DBusConnection, link: str) -> None:
    """Open an address in the person's browser: by the desktop, else by what this machine has for that."""
    try:
        _call(connection, "OpenURI", "ssa{sv}", ("", link, {}), PORTAL)
    except (DBusErrorResponse, TimeoutError):
        # The browser must not write to the daemon.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.dup2(null, sys.stderr.fileno())
        webbrowser.open(link)


def _call(
    connection: DBusConnection,
    method: str,
    signature: str | None = None,
    body: tuple[Any, ...] = (),
    where: DBusAddress = SERVICE,
) -> Any:
    message = new_method_call(where, method, signature, body)
    return unwrap_msg(connection.send_and_get_reply(message, timeout=ANSWER_SECONDS))[0]


def main() -> int:
    """Show the notification that the environment describes. A desktop without notifications is not an error."""
    signals = deque[Message]()
    try:
        with open_dbus_connection("SESSION") as connection, connection.filter(SIGNALS, queue=signals):
            unwrap_msg(connection.send_and_get_reply(message_bus.AddMatch(SIGNALS), timeout=ANSWER_SECONDS))
            capabilities = _call(connection, "GetCapabilities")
            number = show(connection, os.environ, capabilities)
            print(number, flush=True)
            link = link_of(os.environ) if "actions" in capabilities else ""
            if link and pressed(connection, signals, number) and is_there(link, os.environ):
                open_link(connection, link)
    except DBusErrorResponse as error:
        print(f"the desktop shows no notifications: {error.name}")
    except (OSError, ValueError, RuntimeError) as error:
        print(f"the desktop's bus cannot be reached: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
