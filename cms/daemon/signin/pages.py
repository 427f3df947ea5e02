"""The local sign-in page as HTML: what a browser at the redirect address shows. It never holds a secret.

This file escapes everything that comes from outside, and nothing else in cms writes HTML. page.css and page.js are the
page's style and its only script; without the script it works by reload.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

from cms.daemon.signin.cards import Card, Offer
from cms.daemon.signin.page_files import MARK, STYLE
from cms_oauth.text import shown

_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#x27;"})
_COMMAND = re.compile("`([^`]*)`")

_STYLE_HASH = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()

# Our own style, script and forms only. After a form, the page goes on to the provider by a refresh and not by a redirect:
# browsers apply form-action to redirects too, and cms cannot know the login host of every tenant.
POLICY = (
    f"default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

START_PATH = "/start"
SCRIPT_PATH = "/page.js"

# A page of more cards is slow to read and to renew. Accounts that wait come first.
MOST_CARDS = 100

TITLE = "cms: sign in"
_BRAND = (
    '<p class="brand"><svg viewBox="0 0 32 32" fill="none" stroke="currentColor" stroke-width="2.2" '
    'stroke-linecap="round" stroke-linejoin="round" aria-hidden="true"><rect x="3" y="7" width="26" height="18" rx="3"/>'
    '<path d="m4 9 12 9 12-9"/></svg>cms</p>'
)
_LEAD = (
    "cms keeps the mail programs of this computer signed in. You sign in on the page of your mail provider: cms never sees "
    "a password."
)
_FOOT = (
    "This page closes two minutes after the last sign-in. After that, <code>cms status</code> in a terminal shows the "
    "accounts."
)
_CLOSED = "No account needs you, or cms has ended. <code>cms status</code> in a terminal goes on showing the accounts."


def escape(text: str) -> str:
    """Return text for HTML, and for double-quoted attributes of it: nothing in it is markup, or turns the line around."""
    return shown(text).translate(_ESCAPES)


def front(cards: Sequence[Card], more: int = 0) -> str:
    """Return the page that shows the accounts, with a button for each that the page can sign in.

    `more` is how many accounts it does not show.
    """
    return _page(TITLE, f'<h1>Mail sign-ins on this computer</h1><p class="lead">{_LEAD}</p>{_live(cards, more)}')


def ended(title: str, lines: Iterable[str], cards: Sequence[Card] = (), more: int = 0) -> str:
    """Return the page that a sign-in ends at: how it ended, and the accounts as on the first page, if they are given."""
    said = "".join(f'<p class="said">{_sentence(line)}</p>' for line in lines if line)
    return _page(title, f"<h1>{escape(title)}</h1>{said}{_live(cards, more) if cards else ''}")


def onward(url: str) -> str:
    """Return the page that sends the browser on to the provider."""
    target = escape(url)
    return _page(
        "cms: on to the sign-in",
        "<h1>On to the sign-in</h1><p>The page of your mail provider opens now.</p>"
        f'<p><a class="button" rel="noreferrer" href="{target}">Continue</a></p>',
        f'<meta http-equiv="refresh" content="0;url={target}">',
    )


def _live(cards: Sequence[Card], more: int) -> str:
    """Return the part of a page that its script renews."""
    items = "".join(map(_item, cards))
    if more:
        items += (
            f'<li class="card"><p>And {more} more: <code>cms status</code> in a terminal shows all accounts.</p></li>'
        )
    return (
        f'<p id="summary" role="status" tabindex="-1">{_summary(cards)}</p><ul id="accounts" data-mark="{MARK}">{items}</ul>'
        f'<p id="foot" class="foot">{_FOOT}</p><p id="closed" class="foot" hidden>{_CLOSED}</p>'
        f'<script src="{SCRIPT_PATH}" defer></script>'
    )


def _summary(cards: Sequence[Card]) -> str:
    waiting = sum(card.offer is not None for card in cards)
    if not waiting:
        return "No account is waiting for a sign-in here."
    return "One account needs you." if waiting == 1 else f"{waiting} accounts need you."


def _item(card: Card) -> str:
    lines = "".join(f"<p>{_sentence(line)}</p>" for line in card.lines)
    return (
        f'<li class="card {card.level}"><h2>{escape(card.label)}</h2><span class="state">{escape(card.state)}</span>'
        f"{lines}{_button(card.offer) if card.offer else ''}</li>"
    )


def _button(offer: Offer) -> str:
    # Its name says whose sign-in it is, for those who hear the buttons one after the other.
    label, key = escape(offer.label), escape(offer.key)
    if offer.url:
        return (
            f'<a class="button" data-account="{key}" rel="noreferrer" href="{escape(offer.url)}" '
            f'aria-label="Continue the sign-in of {label}">Continue the sign-in</a>'
        )
    return (
        f'<form method="post" action="{START_PATH}"><input type="hidden" name="grant" value="{key}">'
        f'<button type="submit" data-account="{key}" aria-label="Sign in {label}">Sign in</button></form>'
    )


def _sentence(text: str) -> str:
    return _COMMAND.sub(r"<code>\1</code>", escape(text))


def _page(title: str, body: str, head: str = "") -> str:
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style>{head}</head>"
        f"<body><main>{_BRAND}{body}</main></body></html>\n"
    )
