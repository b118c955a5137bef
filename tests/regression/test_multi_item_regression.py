"""The installed suite, under the node ids of the contract."""

from pytest_multiitem.suites.regression.test_multi_item_regression import *  # noqa: F403
