"""The two-step evaluation: measure servers one at a time, join the files later, judge the release gates.

Imports run downwards: commands → check, combine, measure → evidence, requests, clients → records.
"""
