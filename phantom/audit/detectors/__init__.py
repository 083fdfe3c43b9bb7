"""The detectors: pure functions from what was seen to a verdict.

None of them imports Twisted, sockets, the clock or entropy; each names its source.
"""
