"""The wire: requests, answers and errors, one endpoint a module."""
