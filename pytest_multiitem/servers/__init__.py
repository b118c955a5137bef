"""Owned HTTP servers: start them under a guard, share them between processes, stop all of them."""
