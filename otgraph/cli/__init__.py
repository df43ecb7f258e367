"""The command line: parses, calls the Python API, prints. One file per command group."""
