"""The one exception that means: the caller's input is at fault."""


class InputError(ValueError):
    """An input that is not accepted; the message names it, its value and what is accepted."""
