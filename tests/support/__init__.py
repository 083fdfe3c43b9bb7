"""Stand-ins for the world, shared by all tests.

`support.runtime` replaces clock, entropy and name resolution; `support.transports` is a
transport one test drives by hand; `support.pipes` joins two protocols on a fake clock.
"""
