"""The one exception that means "the user can mend this"."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in a config, path, label, image, checkpoint or shape.

    The message is one line that names the culprit and says what was expected. Commands print it
    without a stack trace and exit with a non-zero code.
    """


def nearest_name(name: str, valid_names: Iterable[str], prefix: str = "") -> str:
    """Returns a hint such as ``"; did you mean 'batch_size'?"``, or what is valid, for messages.

    Args:
        name: What the user wrote.
        valid_names: What could have been written.
        prefix: Put before the suggestion, such as the path to a key.

    Returns:
        A clause to append to an error message.
    """
    valid_names = sorted(set(valid_names))
    matches = difflib.get_close_matches(name, valid_names, n=1, cutoff=0.5)
    if matches:
        return f"; did you mean '{prefix}{matches[0]}'?"
    return f"; valid: {', '.join(valid_names)}"
