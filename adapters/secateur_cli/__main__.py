"""The command `secateur`, and `python -m secateur_cli`: torch takes seconds to import, in which Ctrl-C counts too."""

from __future__ import annotations

import sys

FAILED, STOPPED = 1, 130


def main() -> None:
    """Import the command line and run it; Ctrl-C meanwhile ends in one line, as do packages that are not there."""
    try:
        try:
            from secateur_cli.main import app
        except ImportError as error:
            hint = "`pip check` names what is missing or does not fit"
            print(f"error: secateur cannot start: {type(error).__name__}: {error}; {hint}", file=sys.stderr)
            sys.exit(FAILED)
        app()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
