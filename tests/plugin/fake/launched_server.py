"""`fake_server` with a launch line of flags. It tells its prefix cache, and leaves it off where ``FAKE_STUBBORN``.

``--speculative`` is refused as engines refuse what does not go together; ``FAKE_CRASH``: it ends as by a bug.
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

import fake_server


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--host")
    parser.add_argument("--port", required=True)
    parser.add_argument("--role", required=True)
    parser.add_argument("--prefix-cache", choices=("on", "off"), default="off")
    parser.add_argument("--speculative")
    options, rest = parser.parse_known_args()
    if unknown := [word for word in rest if word.startswith("--tensor")]:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if options.speculative is not None:
        raise ValueError(f"Multi-item scoring does not go with speculative decoding ({options.speculative})")
    if "FAKE_CRASH" in os.environ:
        raise RuntimeError("device-side assert triggered")
    told = "off" if "FAKE_STUBBORN" in os.environ else options.prefix_cache

    class Server(fake_server.Server):
        def info(self) -> dict[str, Any]:
            return {**super().info(), "prefix_cache": told}

    fake_server.Server = Server
    sys.argv = [sys.argv[0], options.port, options.role, *rest]
    fake_server.main()


if __name__ == "__main__":
    main()
