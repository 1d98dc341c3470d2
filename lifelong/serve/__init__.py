"""The report of a run as a page that follows it: read-only, behind a token, on this machine unless told otherwise.

`app` answers requests from what the run has committed, `guard` lets in who has the token, `listen` opens the port.
"""
