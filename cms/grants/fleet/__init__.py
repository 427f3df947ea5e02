"""The fleet: sign-ins that several hosts share through a PostgreSQL database.

The database holds the truth, and each host that redeems keeps a journal of what it was given: a successor is in the
journal before it is in the database, and in the database before anybody gets its token. A host claims a sign-in before it
redeems it. The claim is a row that is committed first (a lease), so nothing in the database is locked while a provider
thinks.

    store         `FleetStore`: what the service asks for, in the words of `cms.grants.stores`
    held          `FleetHeld`: one sign-in, while this host holds it
    member        this host: its connection, its keys, and what its journals bring
    claim         when a host may claim a sign-in
    journal       the files of this host
    sealing       the bytes of a sign-in and of a token, as rows have them
    statements    all that is said to the database
    schema        its tables and roles
    connection    how it is reached; the only file that knows the client library
    hear          hears what other hosts change

Nothing here is imported where no `Fleet` is configured.
"""
