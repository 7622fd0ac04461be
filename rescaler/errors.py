"""The one exception for what a person can mend."""


class InputError(ValueError):
    """Bad input: the message names what was wrong, its value and what is allowed.

    The command line prints the message as one line and exits with code 1; a traceback would only hide it.
    """
