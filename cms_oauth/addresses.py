"""The one rule for what a mail address is, and how one is read from what people type and paste.

The configuration, `cms init`, the arguments of commands and the requests of mail programs all use it. Pure.
"""

from unicodedata import category

# RFC 5321: 64 octets of local part, an @, 255 octets of domain.
MAX_ADDRESS = 320

# What a local part has beside letters and digits (RFC 5322, atext), without the wildcards. Entra's sign-in names have
# fewer of these: ' . - _ ! # ^ ~ (Microsoft: "Plan and troubleshoot User Principal Name changes").
_IN_NAMES = frozenset("!#$%&'+-/=^_`{|}~")
_IN_DOMAINS = frozenset("-_")
_WILDCARDS = frozenset("*?")

# What programs and people put around an address, beside typographic quotes. These count in pairs, because a name may
# begin with an apostrophe.
_PAIRS = frozenset(('""', "''", "``", "()", "[]"))
# Unicode's categories of quotes and brackets.
_QUOTES = frozenset(("Pi", "Pf", "Ps", "Pe"))
# The end of a sentence, or of an item in a list.
_STOPS = (".", ",", ";", ":")
_SCHEME = "mailto:"
_LINE_BREAKS = "\n\v\f\r\x85\u2028\u2029"


def is_pattern(name: str) -> bool:
    """Return True if a name that a person typed is a pattern such as `*@domain.com`. No address has these characters."""
    return not _WILDCARDS.isdisjoint(name)


def bare(text: str) -> str:
    """Return the address in what a person typed or pasted: without blanks, quotes, `<>` or a full stop around it.

    From `Name <user@domain>` it is the address. If nothing would be left, the text stays as it is, so that `<>` is never
    read as no user at all.
    """
    inner = _trimmed(text)
    while True:
        if inner[: len(_SCHEME)].lower() == _SCHEME:
            # A link may name a subject as well (RFC 6068).
            inner = _trimmed(inner[len(_SCHEME) :].partition("?")[0])
        elif inner.endswith(">") and "<" in inner and inner.count("@") == 1:
            inner = _trimmed(inner[inner.index("<") + 1 : -1])
        elif inner.endswith(_STOPS):
            inner = _trimmed(inner[:-1])
        elif len(inner) > 1 and _is_pair(inner[0], inner[-1]):
            inner = _trimmed(inner[1:-1])
        else:
            return inner or text


def _trimmed(text: str) -> str:
    """Return the text without blanks and invisible characters at its ends: some programs copy a mark of direction.

    A line break stays: a text of two lines is not one address.
    """
    first, last = 0, len(text)
    while first < last and _is_blank(text[first]):
        first += 1
    while last > first and _is_blank(text[last - 1]):
        last -= 1
    return text[first:last]


def _is_pair(first: str, last: str) -> bool:
    return first + last in _PAIRS or (_is_quote(first) and _is_quote(last))


def _is_quote(character: str) -> bool:
    """Return True for a typographic quote or bracket."""
    return not character.isascii() and category(character) in _QUOTES


def _is_blank(character: str) -> bool:
    return character == " " or not (character.isprintable() or character in _LINE_BREAKS)


def is_address(text: str) -> bool:
    """Return True for an address, with nothing around it."""
    return not fault(text)


def fault(text: str) -> str:
    """Return why a text is not an address, in words that follow "it", "" if it is one. The text is not quoted."""
    name, at, domain = text.rpartition("@")
    if not (name and at and domain):
        return "has no name, no @ or no domain"
    if not text.isprintable() or " " in text:
        return "has a space or a control character in it"
    if "@" in name:
        return "has more than one @"
    if not _WILDCARDS.isdisjoint(text):
        return "has a wildcard, * or ?, which matches no request: write out each address"
    if len(text.encode()) > MAX_ADDRESS:
        return f"is longer than {MAX_ADDRESS} bytes"
    if not _is_dotted(name, _IN_NAMES):
        return "has a character or a full stop before the @ that no address has there"
    if not _is_dotted(domain, _IN_DOMAINS) or any(each[0] == "-" or each[-1] == "-" for each in domain.split(".")):
        return "has a domain that cannot exist"
    return ""


def _is_dotted(text: str, others: frozenset[str]) -> bool:
    """Return True if the text is parts of letters, digits and `others` with single full stops between them."""
    # Nearly every part is letters and digits, which is quicker to see at once.
    return all(
        part.isalnum() or (part and all(_is_of_word(each) or each in others for each in part))
        for part in text.split(".")
    )


def _is_of_word(character: str) -> bool:
    """Return True for letters and digits, and for what RFC 6531 adds to them, apart from typographic quotes."""
    return character.isalnum() or not (character.isascii() or _is_quote(character))
