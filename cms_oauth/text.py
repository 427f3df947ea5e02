"""Makes text from outside safe to show: a server's replies, a token's claims, names from another program.

Such text may contain characters that move a terminal's cursor, change its colours, reverse the direction of writing, or
start a new line that looks like one of cms's own. The fetch path of `cms-oauth` uses this too, so it imports nothing.
"""

# People do not read a longer line, and a server may send any amount.
MAX_LINE = 4096

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
