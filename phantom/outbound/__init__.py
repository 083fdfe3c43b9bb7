"""Outbounds turn a destination into a transport."""
