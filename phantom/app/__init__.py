"""The services, the plugins' makers and the command line."""
