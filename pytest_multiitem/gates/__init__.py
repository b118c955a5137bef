"""The gates: each measures one property of a server and judges it, with the evidence for its verdict.

A gate is one module here that defines ``GATES`` and its measurement; `registry` finds it.
"""
