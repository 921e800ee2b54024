"""The one error that is meant for people."""


class UserError(Exception):
    """Bad input or a missing thing that the person at the keyboard can put right.

    The message is one paragraph: what was wrong, where, what is allowed, what to do.
    The command line prints it without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class Held(UserError):  # noqa: N818 - it is none
    """The run is another process's at the moment: nothing is wrong, and a sweep leaves it to that one."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h
