"""`python -m scoresde.cli`, which `torchrun -m` can start."""

from . import main

main()
