"""Packaging lives in setup.cfg; this file is for tools that still ask for a setup.py."""

from setuptools import setup

setup()
