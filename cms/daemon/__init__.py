"""The daemon, which holds access tokens and serves them. It never sees a refresh token: the grant worker keeps those.

`app` puts everything together. `commands` are the commands of the control socket, `registry` has the facts about each
grant, `keeper` keeps the tokens of one grant fresh, and `worker` asks the grant worker for them. `children` has what all
child processes share. `hooks` and `desktop` notify people. `serving/` answers mail programs, `signin/` signs people in,
`control/` is the control socket. `metrics_server` answers `GET /metrics` with the text that `openmetrics` makes.

May import cms.core, cms.config, cms.system and cms_oauth; of cms.grants only `messages`. app -> commands -> registry ->
keeper; serving and signin know nothing of each other.
"""
