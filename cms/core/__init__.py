"""What cms decides, without touching anything: no clock, no file, no network, no log.

`accounts` are the data that everything else is about. `lifecycle` is the heart: what is held for a grant, what is done
next, and what a client is told. `policy` says who may have which token, `preflight` whether it opens the protocol that is
asked for, `forecast` when a sign-in will end, `notices` what a person is told of, `refusals` what Microsoft's errors mean,
`status` what the daemon knows and `status_text` how that reads.

May import `cms_oauth` and nothing else of cms. Every other package may import this one.
"""
