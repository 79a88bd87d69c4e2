"""The one exception of the package: a mistake of the user's, told in one sentence."""


class Refusal(ValueError):
    """What was asked cannot be done. The message is one sentence: what was found, what is allowed, what to change.

    Launchers print it without a traceback and exit with a non-zero status.
    """
