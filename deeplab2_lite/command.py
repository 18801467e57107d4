"""How every command of the library starts, fails and ends."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from deeplab2_lite.errors import UserError

EXIT_USER_ERROR = 2
# EX_TEMPFAIL of sysexits.h: not done, and worth another start.
EXIT_PREEMPTED = 75
EXIT_INTERRUPTED = 130


class Preempted(Exception):
    """The command was asked to end by SIGTERM, or its job has lost a process, and goes on when it is started again."""

    def __init__(self, reason: str = "terminated") -> None:
        """Says why, in a word or a line."""
        super().__init__(reason)


def run_command(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> int:
    """Runs a command; a user's mistake ends in one line.

    Args:
        run: What to do.
        arguments: Its flags.

    Returns:
        Exit status: 0, 2 after a user's mistake, 75 if it should be started again, 130 after Ctrl-C.
    """
    # TensorFlow's own log is for its developers; what concerns a user is raised as an error. This has
    # to happen before it is imported, and an environment variable that is set already wins.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        run(arguments)
        # Here, and not when the interpreter ends, a pipe whose reader has gone is no error.
        sys.stdout.flush()
    except UserError as error:
        # A path or key that the user gave may hold line breaks.
        print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return EXIT_USER_ERROR
    except Preempted as reason:
        print(f"{reason}; the same command goes on from here", file=sys.stderr)
        return EXIT_PREEMPTED
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of a pipe, such as `head`, has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
