"""One command on rented machines: preflight, create, set up, run, collect, compare, tear down."""
