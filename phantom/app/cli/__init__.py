"""The ``phantom`` command."""
