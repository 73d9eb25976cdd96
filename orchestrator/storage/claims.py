"""One sweep per place of an object store, which has no locks: claims that the store's own clock orders."""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator

from orchestrator.storage.remote import Remote, repeating
from sagasr.io import lease
from sagasr.io.errors import DataError

CLAIM_EXPIRES_S = 60.0
TICK_S = 1.2  # object stores tell times in whole seconds


@contextlib.contextmanager
def claimed(remote: Remote, on_lost: Callable[[], object] = str) -> Iterator[None]:
    """Hold a place for this process. Raises DataError naming who else does.

    Every contender writes a claim and reads all claims one tick of the store's clock later: the earliest by that clock
    holds the place, so two never do. A claim lives as long as its process renews its beat, which the store's clock
    tells too; of a process on this machine, no longer than the process. A new holder deletes expired claims, and a
    process whose claim was deleted while it was suspended calls ``on_lost``.
    """
    claims, mine = remote / ".claims", secrets.token_hex(8)

    def beat() -> bool:
        with contextlib.suppress(OSError):
            if claims.read(f"{mine}.claim") is None:
                on_lost()
                return True
            claims.write(f"{mine}.beat", b"")
        return False

    try:
        claims.write(f"{mine}.claim", lease.me().model_dump_json().encode())
        with repeating(beat, CLAIM_EXPIRES_S / 4, "claim"):
            time.sleep(TICK_S)
            first = _holder(claims, mine)
            if first != mine:
                writer = f"another sweep writes here ({_owner(claims, first)})"
                raise DataError(f"{remote.uri}: {writer}; wait for it, or choose another --storage")
            yield
    finally:
        for kind in ("claim", "beat"):
            with contextlib.suppress(OSError):
                claims.delete(f"{mine}.{kind}")


def _holder(claims: Remote, mine: str) -> str:
    """Return the earliest claim that is alive, and remove those that are not."""
    claims.write(f"{mine}.beat", b"")
    objects = claims.list()
    now = objects[f"{mine}.beat"].modified_ns
    alive = []
    for name, claim in objects.items():
        token, _, kind = name.rpartition(".")
        if kind != "claim":
            continue
        owner, last = _owner(claims, token), objects.get(f"{token}.beat", claim).modified_ns
        if now - last < CLAIM_EXPIRES_S * 1e9 and not (owner and lease.is_alive(owner) is False):
            alive.append((claim.modified_ns, token))
        else:
            claims.delete(name)
            claims.delete(f"{token}.beat")
    return min(alive)[1]


def _owner(claims: Remote, token: str) -> lease.Owner | None:
    try:
        return lease.Owner.model_validate_json(claims.read(f"{token}.claim") or b"")
    except ValueError:
        return None
