"""phantom: a self-hosted, censorship-resistant tunnel built on Twisted.

``doc/life-of-a-byte.md`` walks through the package along the path of one byte.
"""

__version__ = "0.1.0.dev0"
