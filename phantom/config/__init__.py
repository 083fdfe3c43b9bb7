"""The configuration: its schema, how files are read, and how mistakes are told."""
