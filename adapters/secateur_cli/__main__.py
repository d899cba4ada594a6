"""The command `secateur`, and `python -m secateur_cli`: torch takes seconds to import, in which Ctrl-C counts too."""

from __future__ import annotations

import sys

STOPPED = 130


def main() -> None:
    """Import the command line and run it; Ctrl-C meanwhile ends in one line."""
    try:
        from secateur_cli.main import app

        app()
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(STOPPED)


if __name__ == "__main__":
    main()
