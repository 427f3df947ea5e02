"""Signing a person in: the sign-ins under way, and the local page that a browser starts them on and comes back to.

`signins` holds every sign-in and answers the browser; `flow` is one sign-in; `page_addresses` opens and closes the page
as accounts begin and cease to wait; `http` listens on loopback and reads requests with h11; `pages` writes the HTML.

May import cms/core, cms/config, cms/system and `cms.grants.messages`, and of the daemon `registry` and `worker`. It
knows nothing of cms/daemon/serving, nor serving of it.
"""
