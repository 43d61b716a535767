"""The file data/split_ledger.json: which split each photo was given, so that photos added later move no earlier one.

No rule without a memory can both keep every group where it is and even out the shares: where a group may not depend on the others, its
split is drawn for it alone, and shares are left to chance. So the memory is a file. The stage reads it, keeps what it says, places new
groups so that the shares come out even, and writes it back; a run that adds nothing leaves it as it was, byte for byte, so that what git
holds is all that another machine needs. Photos that are gone stay in it: should they return, they return to their split.

It holds for one seed, policy and set of fractions. Others start a new one. Deleting the file does too.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from carinspect.core.errors import UserError
from carinspect.core.files import write_json
from carinspect.core.tables import SPLITS
from carinspect.splits.config import SplitParams


class Ledger(NamedTuple):
    """Splits by the photo's SHA-256. `moved` is the first split of those that left it, because a new photo tied two groups."""

    photos: Mapping[str, str]
    moved: Mapping[str, str]


def _settings(params: SplitParams) -> dict[str, object]:
    return {"seed": params.seed, "policy": params.policy, "fractions": params.fractions}


def read_ledger(path: Path, params: SplitParams) -> Ledger:
    """The ledger; empty where there is none yet, or it was written with other settings. Raises `UserError` for a damaged one."""
    if not path.is_file():
        return Ledger({}, {})
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        ledger, settings = Ledger(content["photos"], content["moved"]), content["settings"]
        sound = set(ledger.photos.values()) <= set(SPLITS) and ledger.moved.keys() <= ledger.photos.keys()
    except (ValueError, KeyError, TypeError, AttributeError):
        sound = False
    if not sound:
        raise UserError(f"{path}: not a ledger of splits. Restore it (git checkout {path}), or delete it to split again.")
    return ledger if settings == _settings(params) else Ledger({}, {})


def write_ledger(path: Path, ledger: Ledger, params: SplitParams) -> None:
    """Write the ledger, whole or not at all."""
    write_json(path, {"settings": _settings(params), "photos": ledger.photos, "moved": ledger.moved})


def extend_ledger(ledger: Ledger, splits: Mapping[str, str]) -> Ledger:
    """`ledger` with what `splits`, by SHA-256, says now."""
    moved = dict(ledger.moved)
    for photo, split in splits.items():
        if ledger.photos.get(photo, split) != split:
            moved.setdefault(photo, ledger.photos[photo])
    photos = {**ledger.photos, **splits}
    return Ledger(photos, {photo: first for photo, first in moved.items() if photos[photo] != first})
