"""The pages that a person sees: sign in, enter a device's code, an error."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body><h1>{title}</h1><p><strong>This is cms's sandbox: no real account signs in here.</strong></p>
{content}
</body></html>
"""


def message(title: str, text: str) -> str:
    """Return a page that only says something."""
    return _PAGE.format(title=escape(title), content=f"<p>{escape(text)}</p>")


def sign_in(path: str, hidden: Mapping[str, str], users: Iterable[str], *, chosen: str = "") -> str:
    """Return the page that asks who signs in, and for consent; `hidden` goes along with the answer."""
    options = "".join(_option(name, chosen) for name in users)
    content = f'{_hidden(hidden)}<p><label>Sign in as <select name="user">{options}</select></label></p>{_BUTTONS}'
    return _PAGE.format(title="Sign in", content=_form(path, content))


def device(path: str, users: Iterable[str], code: str = "") -> str:
    """Return the page where the code of a device is entered; `code` is there already."""
    options = "".join(_option(name, "") for name in users)
    entry = f'<p><label>Code <input name="user_code" value="{escape(code)}" autofocus></label></p>'
    choice = f'<p><label>Sign in as <select name="user">{options}</select></label></p>'
    return _PAGE.format(title="Enter the code", content=_form(path, entry + choice + _BUTTONS))


def post_back(url: str, fields: Mapping[str, str]) -> str:
    """Return the page that posts an answer to the application by itself (response_mode=form_post)."""
    button = "<noscript><button>Go on</button></noscript><script>document.forms[0].submit()</script>"
    return _PAGE.format(title="Working...", content=_form(url, _hidden(fields) + button))


_BUTTONS = (
    '<p><button name="decision" value="accept">Accept</button> <button name="decision" value="decline">Cancel</button>'
)


def _form(action: str, content: str) -> str:
    return f'<form method="post" action="{escape(action)}">{content}</form>'


def _hidden(fields: Mapping[str, str]) -> str:
    return "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in fields.items()
    )


def _option(name: str, chosen: str) -> str:
    mark = " selected" if name.lower() == chosen.lower() else ""
    return f'<option value="{escape(name)}"{mark}>{escape(name)}</option>'
