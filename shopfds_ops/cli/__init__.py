"""The command line: one thin module per command group that parses, calls and prints. No logic."""
