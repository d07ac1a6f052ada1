"""``python -m fastfcs`` runs the command ``fastfcs``."""

from .cli import main

main()
