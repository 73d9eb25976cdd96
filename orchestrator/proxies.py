"""Proxies that the environment names (HTTP_PROXY …) lead to other machines: this one is reached without them."""

import os
from urllib.request import getproxies

HERE = ("127.0.0.1", "localhost", "::1")
NAMES = ("no_proxy", "NO_PROXY")  # some read the one, some the other


def spare_this_machine() -> None:
    """Let no client in this process, or in one that it starts, ask a proxy for this machine itself."""
    if getproxies().keys() - {"no"}:
        known = next(filter(None, map(os.environ.get, NAMES)), "").split(",")
        added = [host for host in HERE if host not in known and "*" not in known]
        os.environ |= dict.fromkeys(NAMES, ",".join(filter(None, [*known, *added])))
