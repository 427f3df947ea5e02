"""`cms doctor`: checks everything that mail needs, and says for each fault who can fix it and how.

`checks` lists the checks, `run` runs them and prints the report, and `examination` holds what several checks need. The
`probe_*` modules gather facts; `assess`, `access` and `mail_tools` say what they mean as `findings`, the lines of the
report, and `bundle` removes private data from it; these five compute only. Of the rest of `cms/cli/` the doctor imports
`client` alone.
"""
