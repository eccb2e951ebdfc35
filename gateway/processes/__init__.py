"""The daemon as processes: what keeps the HTTP process running, the line between the two, their priorities,
the service manager and SIGHUP.
"""
