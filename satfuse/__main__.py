"""`python -m satfuse`: the command line where the program `satfuse` is not on the path."""

from satfuse.cli import main

main()
