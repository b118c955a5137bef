"""A profile matrix: the contract over launch variants of engines, each with servers of its own."""
