"""Pure computation: no Twisted, no clock, no entropy, no sockets.  Time is an argument."""
