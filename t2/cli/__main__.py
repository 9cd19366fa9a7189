"""``python -m t2.cli`` is ``t2``."""

from t2.cli import main

main()
