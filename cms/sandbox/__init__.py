"""An Entra and a submission server to try cms against without a Microsoft account: for `cms demo` and for the tests.

It stands outside the ladder of imports: nothing of cms needs it, and it uses nothing of the daemon's. Whatever it
hands out is worthless anywhere else.
"""
