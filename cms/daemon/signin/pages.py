"""The local sign-in page as HTML: what a browser at the redirect address shows. It never holds a secret.

This file escapes everything that comes from outside, and nothing else in cms writes HTML.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable

from cms_oauth.frozen import dataclass
from cms_oauth.text import shown

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})

_STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:54rem;margin:3rem auto;padding:0 1rem}"
    "pre{white-space:pre-wrap;padding:1rem;background:#8881;font-size:.85em}li{margin:.4rem 0}button{font:inherit;padding:.3rem 1rem}"
)
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()

# Our own style and our own forms only. After a form, the page goes on to the provider by a refresh and not by a redirect:
# browsers apply form-action to redirects too, and cms cannot know the login host of every tenant.
POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

START_PATH = "/start"


@dataclass(frozen=True, slots=True)
class Offer:
    """An account that waits for a browser. `key` is its grant's, `url` continues a sign-in under way, "" for none."""

    key: str
    label: str
    url: str = ""


def escape(text: str) -> str:
    """Return text for HTML, and for double-quoted attributes of it: nothing in it is markup, or turns the line around."""
    return shown(text).translate(_ESCAPES)


def front(offers: Iterable[Offer], status: str, elsewhere: Iterable[str] = ()) -> str:
    """Return the page that lists the accounts which wait, with a button for each, and the status of all.

    `elsewhere` says of each account that waits and has no button here what to do instead.
    """
    items = "".join(_item(offer) for offer in offers) + "".join(f"<li>{escape(line)}</li>" for line in elsewhere)
    waiting = f"<ul>{items}</ul>" if items else "<p>No account is waiting for a sign-in.</p>"
    return _page("cms: sign in", f"{waiting}<h2>Status</h2><pre>{escape(status)}</pre>")


def ended(title: str, lines: Iterable[str], offers: Iterable[Offer] = ()) -> str:
    """Return the page that a sign-in ends at, with buttons for the accounts that still wait."""
    said = "".join(f"<p>{escape(line)}</p>" for line in lines if line)
    items = "".join(_item(offer) for offer in offers)
    return _page(title, said + (f"<h2>Next</h2><ul>{items}</ul>" if items else ""))


def onward(url: str) -> str:
    """Return the page that sends the browser on to the provider."""
    target = escape(url)
    return _page(
        "cms: on to the sign-in",
        f'<p><a rel="noreferrer" href="{target}">Continue</a></p>',
        f'<meta http-equiv="refresh" content="0;url={target}">',
    )


def _item(offer: Offer) -> str:
    label = escape(offer.label)
    if offer.url:
        return f'<li>{label}: <a rel="noreferrer" href="{escape(offer.url)}">continue the sign-in</a></li>'
    return (
        f'<li><form method="post" action="{START_PATH}"><input type="hidden" name="grant" value="{escape(offer.key)}">'
        f'{label} <button type="submit">Sign in</button></form></li>'
    )


def _page(title: str, body: str, head: str = "") -> str:
    name = escape(title)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{name}</title>'
        f"<style>{_STYLE}</style>{head}</head><body><h1>{name}</h1>{body}</body></html>\n"
    )
