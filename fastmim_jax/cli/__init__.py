"""The command line: flags, help, parsing, and the commands."""
