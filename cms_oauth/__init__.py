"""Fresh OAuth2 tokens from the cms daemon for Python programs: see `cms_oauth.library`.

`cms-oauth` imports this package for every mail, so the library is loaded only when it is used.
"""

__all__ = ("Login", "TokenError", "token")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cms_oauth import library  # noqa: PLC0415 - a plain fetch does not need it

    return getattr(library, name)
