"""The suites that users run: regression, parity, bench.

``pytest --pyargs pytest_multiitem.suites`` finds them where the package is installed; the project's
own ``tests/`` re-exports them under the node ids of the contract.
"""
