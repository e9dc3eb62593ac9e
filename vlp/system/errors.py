"""Errors that are somebody's to correct, distinguished from defects by their type.

Entry points print a UserError as one sentence and exit with 2; so they do with an OSError, whose own text says which file or
device failed (not a lost connection, which may pass). Every other exception is a defect and keeps its traceback.
"""

from __future__ import annotations


class UserError(ValueError):
    """A mistake in settings or data. Its text is one sentence for the user: the place, what is wrong, the fix.

    Subclasses can be made from that one text: torch does so with what a data worker raised.
    """


def is_user_error(error: BaseException) -> bool:
    """Whether the text of an exception is for the user, and its traceback is not needed."""
    passing = isinstance(error, (ConnectionError, TimeoutError))
    return isinstance(error, UserError) or (isinstance(error, OSError) and not passing)
