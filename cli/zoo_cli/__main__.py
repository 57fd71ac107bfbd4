"""`python -m zoo_cli` is `zoo`."""

from zoo_cli.app import main

main()
