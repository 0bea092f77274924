"""A user's mistake: one sentence, no traceback."""


class UserError(Exception):
    """Shown as it is; the program ends with status 2."""
