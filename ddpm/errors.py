"""The one error that is meant for people."""


class UserError(Exception):
    """Bad input or a missing thing that the person at the keyboard can put right.

    The message is one paragraph: what was wrong, where, what is allowed, what to do.
    The command line prints it without a traceback and exits with code 2.
    """
