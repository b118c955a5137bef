"""Machines that are rented, or lent: how each is had, reached and given back. One provider a module."""
