"""Faults of a file, gathered so that a user mends them in one go."""

from collections.abc import Iterator
from contextlib import contextmanager

from sagasr.io.errors import ConfigError


class Faults(list[str]):
    """One line per fault."""

    @contextmanager
    def collecting(self, prefix: str = "") -> Iterator[None]:
        """Add the lines of a ConfigError that the block raises; what follows the block goes on."""
        try:
            yield
        except ConfigError as error:
            self.extend(f"{prefix}{line}" for line in str(error).splitlines())

    def stop(self) -> None:
        """Raise ConfigError with all lines, each once, if there are any."""
        if self:
            raise ConfigError("\n".join(dict.fromkeys(self)))
