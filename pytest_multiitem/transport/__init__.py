"""HTTP: a client for scores, and a socket that listens."""
