"""The grant worker: the second process of cms, and the only one that sees a refresh token, a secret or the vault's key.

`__main__` starts it, `messages` is all that the daemon imports of it, `dispatcher` gives each question a thread, `service`
answers questions about a grant and `housekeeping` the others. `providers` says what a provider of tokens is asked: `entra`
is Microsoft, by way of `network`. `vault` stores sign-ins; `transfer` imports and exports them. Another provider is a
folder beside `entra`, another store a file in `vault`.

Plain synchronous code: no trio. It may import cms.core, cms.system.files, cms.system.threads and cms_oauth. A provider
imports no other provider, and neither `vault` nor `entra` imports the other; `service` brings them together.
"""
