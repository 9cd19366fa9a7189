"""``t2`` and ``python -m t2``: the command line, where what it needs is installed."""

from __future__ import annotations

import sys


def main() -> None:
    """Runs ``t2``; without the extra ``pipeline``, says what to install."""
    try:
        from t2.cli import main as run
    except ModuleNotFoundError as error:
        sys.exit(f"t2: {error.name} is not installed; the commands need `pip install 'transformer-squared[pipeline]'`")
    run()


if __name__ == "__main__":
    main()
