"""What the user can mend is one line on stderr and exit code 2, without a traceback."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable

__all__ = ["UserError", "one_line", "run"]


class UserError(Exception):
    """Something the user can mend: shown as one line, without a traceback."""


def run(main: Callable[[list[str]], int], argv: list[str] | None = None) -> None:
    """Run a script; what the user can mend becomes one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A console that knows no λ, or a path that is no UTF-8, is no reason to end a training.
            stream.reconfigure(errors="backslashreplace")
    try:
        code = main(argv)
    except UserError as error:
        if "--debug" in argv:
            raise
        # An error from a data loader's worker arrives inside the text of its traceback.
        print("error:", one_line(str(error).rsplit("UserError: ", 1)[-1]), file=sys.stderr)
        code = 2
    except OSError as error:  # a full disk, a folder that went away
        if "--debug" in argv:
            raise
        print(f"error: {one_line(error)}: mend this, then go on with --resume", file=sys.stderr)
        code = 2
    sys.exit(code)


def one_line(error: object) -> str:
    """The text of an error on one line."""
    return " ".join(str(error).split())
