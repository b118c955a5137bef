"""Servers that speak the scoring wire for engines that have none, run by those engines' own interpreters.

A bridge is one file and imports the standard library and its engine alone: this package is not installed there.
"""
