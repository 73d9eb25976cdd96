"""Whether the files of rows are there, readable and the ones that were meant; and their identity by content."""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from sagasr.audio.files import problem_of
from sagasr.data.rows import Row
from sagasr.io.errors import DataError
from sagasr.io.fingerprint import content_of, fingerprint


def hash_or_problem(row: Row) -> tuple[str, str | None]:
    """Return the sha256 of a recording's file, and why it cannot be read or is not the one meant, or None."""
    try:
        digest = content_of(row.file)
    except FileNotFoundError:
        return "", f"{row.file}: no such file{_named(row)}"
    except OSError as error:
        return "", f"{row.file}: cannot be read ({error.strerror or error}){_named(row)}"
    if row.sha256 and digest != row.sha256:
        difference = f"sha256 {digest[:12]}…, line {row.line} of the manifest says {row.sha256[:12]}…"
        return digest, f"{row.file}: is not the recording that was meant ({difference})"
    return digest, None


def content_hashes(rows: Iterable[Row]) -> list[str]:
    """Return the sha256 of each recording's file, in the order of the rows.

    Raises DataError naming every file that cannot be read, or that is not what the manifest's ``sha256`` says.
    """
    rows = list(rows)
    with ThreadPoolExecutor() as pool:
        hashed = list(pool.map(hash_or_problem, rows))
    problems = [problem for _, problem in hashed if problem]
    if problems:
        raise DataError("\n".join(problems))
    return [digest for digest, _ in hashed]


def header_problems(rows: Iterable[Row]) -> list[str | None]:
    """Return for each row why its file is missing or has no readable header, or None.

    Quick enough for planning: contents are checked when they are encoded.
    """
    with ThreadPoolExecutor() as pool:
        return list(pool.map(_header_problem, rows))


def _header_problem(row: Row) -> str | None:
    problem = problem_of(row.file, whole=False)
    return problem and f"{row.file}: {problem}{_named(row)}"


def _named(row: Row) -> str:
    """Return where a file is named that is not there, or cannot be, as its name is too long; else nothing."""
    return "" if os.path.exists(row.file) else f" (named in line {row.line} of the manifest)"


def manifest_fingerprint(rows: Iterable[Row]) -> str:
    """Return the identity of what the rows hold: sound, texts and domains; not paths, order or other columns."""
    rows = list(rows)
    return fingerprint(
        sorted(
            [digest, row.caption, row.transcript, row.domain]
            for row, digest in zip(rows, content_hashes(rows), strict=True)
        )
    )
