"""A simulated Microsoft 365 for `cms demo` and the tests: Entra's endpoints, and a mail submission server.

`issuer` simulates other providers: one that behaves as Google does, and a strict one.

It may import `cms.core.accounts` and `cms_oauth`. Nothing else of cms imports it; the command line loads `stage` when
a user runs `cms demo`. Tokens that it issues are worthless anywhere else.
"""
