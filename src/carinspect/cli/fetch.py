"""Owns `carinspect fetch`: a released model out of a repository's registry, opened before it is kept."""

from pathlib import Path

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.inference.bundle import open_bundle
from carinspect.registry.releases import find_release, parse_reference, read_release


def fetch_model(text: str, *, repository: str | None, out: Path, force: bool) -> None:
    """Write the model that the reference `text` names to `out`. Raises `UserError`; what lies at `out` already then stays."""
    reference = parse_reference(text)
    found = find_release(reference, repository=repository)
    if found is None:
        where = repository or "this repository"
        raise UserError(f"{reference}: no such release in {where}. `gto show` lists its releases; `carinspect promote` makes one.")
    content = read_release(found, repository=repository)
    proof = open_bundle(content).info["threshold"]["proves"]
    if out.is_file() and out.read_bytes() != content and not force:
        raise UserError(f"{out}: another model lies there already. Add --force to replace it, or give another --out.")
    write_bytes(out, content)
    promise = f"proves a precision of {proof['precision']:g} at the confidence {proof['confidence']:g}" if proof else "proves nothing"
    print(f"{out}: {reference}, made by commit {found.commit[:7]}; its threshold {promise}.")
