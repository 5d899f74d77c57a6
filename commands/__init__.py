"""The commands of the command line, one a file: each adds its parser with ``add`` and, when it runs, calls the library.

What a command needs is imported when it runs, so that ``--help`` and mistakes answer at once, and a saved trace is read
without torch. A command returns its exit code; standard output carries its result and nothing else.
"""
