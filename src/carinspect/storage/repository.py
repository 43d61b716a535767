"""Lists the stores of a DVC repository, and finds the files of its workspace that could repair them."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from dvc.repo import Repo

from carinspect.core.errors import UserError, did_you_mean
from carinspect.storage.objects import Store

CACHE = "cache"


def list_stores(repo: Repo, remotes: Sequence[str] | None) -> list[Store]:
    """The cache and the named remotes, all of them when None. Raises `UserError` for a name that is no remote."""
    configured = list(repo.config["remote"])
    for name in remotes or ():
        if name not in configured:
            raise UserError(f"remote '{name}': dvc's configuration has none of this name. {did_you_mean(name, configured)}")
    stores = [Store(CACHE, repo.cache.local, known=None, complete=False)]
    for name in configured if remotes is None else remotes:
        odb = repo.cloud.get_remote_odb(name)
        # HTTP cannot list a remote, so only the objects that this repository's branches and tags use are checked.
        known = _used_objects(repo) if odb.fs.protocol in ("http", "https") else None
        stores.append(Store(name, odb, known=known, complete=True))
    return stores


def _used_objects(repo: Repo) -> frozenset[str]:
    used = repo.used_objs(all_branches=True, all_tags=True)
    return frozenset(info.value for infos in used.values() for info in infos)


def find_in_workspace(repo: Repo, oids: set[str]) -> dict[str, Path]:
    """Object → tracked file of the workspace with the same content, for those of `oids` that have one."""
    found: dict[str, Path] = {}
    for out in repo.index.outs:
        tracked = Path(out.fs_path)
        for path in sorted(tracked.rglob("*")) if tracked.is_dir() else [tracked]:
            if len(found) < len(oids) and path.is_file():
                with path.open("rb") as source:
                    digest = hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
                if digest in oids:
                    found.setdefault(digest, path)
    return found
