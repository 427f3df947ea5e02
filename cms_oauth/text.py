"""Text from outside, made safe to show: a server's words, a token's claims, another program's names.

What such text may hold moves a terminal's cursor, changes its colours, turns the direction of what follows, or begins a
new line that looks like one of cms's own. The fetch path of `cms-oauth` uses this too, so it imports nothing.
"""

# A longer line is read by nobody, and a server may send as much as it likes.
MAX_LINE = 4096


def printable(text: str, most: int = MAX_LINE) -> str:
    """Return the text as one line of at most `most` characters: spaces for white space, "?" for what does not print.

    What does not print is what `str.isprintable` says: control characters (C0 and C1, so every escape sequence), marks
    of direction and of zero width, surrogates, and what Unicode has not assigned.
    """
    text = text[:most]
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else " " if each.isspace() else "?" for each in text)
