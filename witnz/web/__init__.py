"""The HTTP API that the command line speaks over a Unix socket."""
