"""Inbounds turn bytes into a destination."""
