"""`carinspect fetch`: fetches a released model, and checks that it opens before writing it."""

from pathlib import Path

from carinspect.core.errors import UserError
from carinspect.core.files import write_bytes
from carinspect.inference.bundle import open_bundle
from carinspect.inference.predictor import make_predictor
from carinspect.inference.rules import say_promise
from carinspect.registry.releases import find_release, parse_reference, read_release


def fetch_model(text: str, *, repository: str | None, out: Path, force: bool) -> None:
    """Write the model that the reference `text` names to `out`. Raises `UserError`; a file at `out` is then unchanged."""
    reference = parse_reference(text)
    found = find_release(reference, repository=repository)
    if found is None:
        where = repository or "this repository"
        raise UserError(f"{reference}: no such release in {where}. `gto show` lists its releases; `carinspect promote` makes one.")
    content = read_release(found, repository=repository)
    rules = make_predictor(open_bundle(content)).rules.values()
    if out.is_file() and out.read_bytes() != content and not force:
        raise UserError(f"{out}: another model lies there already. Add --force to replace it, or give another --out.")
    write_bytes(out, content)
    promises = [say_promise(rule, side) for rule in rules for side in rule.promises]
    print(f"{out}: {reference}, made by commit {found.commit[:7]}; {'; '.join(promises) or 'it proves nothing'}.")
