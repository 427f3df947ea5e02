"""Fresh OAuth2 tokens of the cms daemon's for Python programs: see `cms_oauth.library`.

`cms-oauth` imports this package for every mail, so what is offered here is loaded when it is asked for.
"""

__all__ = ("Login", "TokenError", "token")


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from cms_oauth import library  # noqa: PLC0415 - the client's way of a plain fetch does without it

    return getattr(library, name)
