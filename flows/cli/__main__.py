"""`python -m flows.cli` is the command `dept`."""

from flows.cli.main import main

main()
