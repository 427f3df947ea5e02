"""HTTPS to a provider, for every provider.

- `http`: the client of one exchange.
- `session`: what all exchanges share: the way to a host, and whom to trust there.
- `deadline`: bounds an exchange.
- `proxy`: the route.
- `trouble`: what it means that no answer came.

May import cms.grants.secret_sources, for the proxy's password; neither a provider nor the vault.
"""
