"""`cms doctor`: checks everything that mail needs, and says for each fault who can fix it and how.

`checks` lists the checks, `run` runs them and prints the report, and `examination` holds what several checks need. The
`probe_*` modules gather facts; `assess`, `access` and `mail_tools` say what they mean, and `bundle` removes private
data from a report; these four compute only. Of the rest of `cms/cli/` it imports `client` and nothing else.
"""
