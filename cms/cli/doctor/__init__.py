"""`cms doctor`: checks everything that mail needs, and says for each problem who can fix it and how.

- `checks` lists the checks, `run` runs them and prints the report, and `examination` has the facts that several checks
  need.
- The `probe_*` modules gather facts from the machine, the network and the mail servers.
- `mail_tools` reads the files of mail programs, and compares what they ask with what the configuration serves.
- `assess`, `assess_network`, `access` and `mail_tools` turn facts into `findings`, the lines of the report. `bundle`
  removes private data from a report. These six are pure.

From the rest of `cms/cli/` the doctor imports only `client`, and of `init` how to ask a program for its release.
"""
