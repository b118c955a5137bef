"""``python -m pytest_multiitem``: the console script, for an interpreter whose scripts are not on the path."""

from pytest_multiitem.cli import main

if __name__ == "__main__":
    main()
