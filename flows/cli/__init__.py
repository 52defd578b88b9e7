"""The command line `dept`."""
