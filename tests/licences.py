"""The licences of all that is installed with sagasr: ``python -m tests.licences``, those it names itself first."""

import re
from importlib.metadata import PackageNotFoundError, distribution, requires

COPYLEFT = re.compile(r"(?<!L)GPL|AGPL|GNU (Affero )?General Public", re.IGNORECASE)


def licence_of(name: str) -> str:
    """Return what a package says its licence is: an SPDX expression, a classifier, or the first line of its text."""
    meta = distribution(name).metadata
    found = [line.rpartition(" :: ")[2] for line in meta.get_all("Classifier") or [] if line.startswith("License")]
    texts = [distribution(name).read_text(f"licenses/{file}") for file in meta.get_all("License-File") or []]
    texts += [distribution(name).read_text(file) for file in meta.get_all("License-File") or []]
    says = meta.get("License-Expression") or ", ".join(found) or meta.get("License")
    stated = says or next(filter(None, texts), "not stated")
    return str(stated).strip().splitlines()[0]


def direct() -> list[str]:
    """Return the packages that sagasr names as its own dependencies."""
    return sorted(
        {re.split(r"[^A-Za-z0-9._-]", line)[0] for line in requires("sagasr") or [] if "extra ==" not in line}
    )


def everything(names: list[str]) -> list[str]:
    """Return those packages and all that they need, as far as they are installed."""
    found: dict[str, None] = {}
    waiting = list(names)
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop(0)).lower()
        try:
            needs = requires(name) or []
        except PackageNotFoundError:
            continue
        if name not in found:
            found[name] = None
            waiting += [re.split(r"[^A-Za-z0-9._-]", line)[0] for line in needs if "extra ==" not in line]
    return list(found)


if __name__ == "__main__":
    for package in everything(direct()):
        print(f"{package:32}{licence_of(package)[:80]}")
