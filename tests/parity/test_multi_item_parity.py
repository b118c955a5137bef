"""The installed suite, under the node ids of the contract."""

from pytest_multiitem.suites.parity.test_multi_item_parity import *  # noqa: F403
