"""The grant worker: the second process of cms, and the only one that sees a refresh token, a secret or the vault's key.

`__main__` starts it, `messages` is all that the daemon imports of it, `dispatcher` gives each question a thread, `service`
answers questions about a grant and `housekeeping` the others. `providers` says what a provider of tokens is asked: `entra`
is Microsoft, `oauth2` is every other one, both by way of `network` and `exchange`. `stores` says what a store of sign-ins
is asked: `vault` is this host's own, in files, and `fleet` a database that several hosts share. `transfer` imports and exports
sign-ins.

Plain synchronous code: no trio. It may import cms.core, cms.system.files, cms.system.threads and cms_oauth. A provider
imports no other provider, and neither they nor `vault` import each other; `service` brings them together.
"""
