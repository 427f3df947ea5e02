from cms_oauth.library import Login as Login
from cms_oauth.library import TokenError as TokenError
from cms_oauth.library import token as token

__all__ = ("Login", "TokenError", "token")
