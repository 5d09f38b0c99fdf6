"""`python -m ofa_kit`: the command line, for launchers such as torchrun."""

from ofa_kit.cli.main import main

main()
