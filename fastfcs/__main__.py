"""python -m fastfcs is the command fastfcs."""

from .cli import main

main()
