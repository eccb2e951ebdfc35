"""The commands. What stands here runs before any of their imports."""

import sys

if sys.argv[1:2] == ["run"]:
    # A reload that is asked for while the daemon is still importing must not end it.
    from gateway.processes import hangup

    hangup.remember()
