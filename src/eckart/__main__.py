"""`python -m eckart` is `eckart`."""

from eckart.cli import main

main()
