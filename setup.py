"""Packaging lives in setup.cfg; this file lets every pip build it without more tools."""

from setuptools import setup

setup()
