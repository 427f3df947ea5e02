"""Makes text from outside safe to show: a server's replies, a token's claims, names from another program.

Such text may contain characters that move a terminal's cursor, change its colours, reverse the direction of writing, or
start a new line that looks like one of cms's own. So every way to a person's eyes passes here: a value where it becomes
part of a line (`printable`), and everything once more where it is written, to a terminal, the log or a page (`shown`). The
fetch path of `cms-oauth` uses this too, so it imports nothing.
"""

# People do not read a longer line, and a server may send any amount.
MAX_LINE = 4096

# Sign-in addresses have a few hundred characters, or some thousand with a challenge in them.
MAX_LINK = 16 * 1024

# Shows that a text was cut.
_CUT = "..."


def printable(text: str, most: int = MAX_LINE) -> str:
    """Return the text as one line of at most `most` characters: spaces for white space, "?" for unprintable characters.

    A text that was cut ends with "...". Unprintable is what `str.isprintable` says: control characters (C0 and C1, so
    every escape sequence), direction and zero-width marks, surrogates, and code points that Unicode has not assigned.
    """
    if len(text) > most:
        text = text[: max(most - len(_CUT), 0)] + _CUT[:most]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)


def shown(text: str) -> str:
    """Return a text of any number of lines with everything replaced that `printable` replaces, but for tabs."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() or each in "\n\t" else " " if each.isspace() else "?" for each in text)


def is_link(text: object) -> bool:
    """True for a web address that can be shown and opened: not `javascript:`, and nothing that breaks a line."""
    return (
        isinstance(text, str)
        and len(text) <= MAX_LINK
        and text.lower().startswith(("https://", "http://"))
        and text.isascii()
        and text.isprintable()
        and not set(text) & set(" \"'<>`")
    )
