"""The tricks that speed is bought with, each in one small place, with a portable fallback.

Nothing here is needed for phantom to work: on another reactor, another system or another
kind of transport the tunnel runs without, only slower.  What each is worth was measured
(doc/performance.md).
"""
