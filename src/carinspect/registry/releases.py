"""Reads and makes releases: git tags in gto's format, for versions of the model and for the stages assigned to them."""

from dataclasses import dataclass
from pathlib import Path

import dvc.api
import gto.api
from dvc.exceptions import ArtifactNotFoundError, DvcException, NotDvcRepoError
from dvc.scm import RevError, SCMError, resolve_rev
from gto.exceptions import GTOException
from gto.versions import SemVer
from scmrepo.git import Git

from carinspect.core.errors import UserError, one_line

ARTIFACT = "car-inspection"
"""Its name under `artifacts` in dvc.yaml."""


@dataclass(frozen=True)
class Release:
    """A released model: a commit, and the file's path in it."""

    commit: str
    path: str


@dataclass(frozen=True)
class Reference:
    """`name`, `name@v1.2.0` or `name@production`. Neither version nor stage: the highest version."""

    name: str
    version: str | None = None
    stage: str | None = None

    def __str__(self) -> str:
        return "@".join(filter(None, (self.name, self.version or self.stage)))


def parse_reference(text: str) -> Reference:
    """Parse a reference. Raises `UserError` unless `text` is name, name@version or name@stage."""
    name, at, what = text.partition("@")
    if not name or (at and not what):
        raise UserError(f"'{text}' is no reference to a model. Write {ARTIFACT}, {ARTIFACT}@v1.0.0 or {ARTIFACT}@production.")
    return Reference(name, version=what) if SemVer.is_valid(what or "-") else Reference(name, stage=what or None)


def find_release(reference: Reference, *, repository: str | None) -> Release | None:
    """The release that `reference` names in a repository's path or URL (None: the current one); None where there is none."""
    try:
        found = dvc.api.artifacts_show(reference.name, version=reference.version, stage=reference.stage, repo=repository)
    except ArtifactNotFoundError:
        return None
    except (DvcException, SCMError, OSError) as error:
        raise UserError(f"the releases of {repository or 'this repository'} cannot be read ({one_line(error)}).") from None
    return Release(commit=found["rev"], path=found["path"])


def read_release(release: Release, *, repository: str | None) -> bytes:
    """The released file, from the repository's cache or its remote."""
    try:
        with dvc.api.open(release.path, repo=repository, rev=release.commit, mode="rb") as file:
            return bytes(file.read())
    except (DvcException, SCMError, OSError) as error:
        raise UserError(
            f"{release.path} of the release {release.commit[:7]} cannot be read ({one_line(error)}). "
            "Was it pushed (dvc push), and is its remote in the repository's committed .dvc/config?"
        ) from None


def find_commit(revision: str) -> str:
    """The full hash of the commit that a revision or an experiment names. Raises `UserError` if there is none."""
    try:
        with Git(search_parent_directories=True) as git:
            return str(resolve_rev(git, revision))
    except (RevError, SCMError, NotDvcRepoError):
        raise UserError(f"'{revision}' is no git revision and no experiment of `dvc exp list`. Commit the model first.") from None


def release(commit: str, *, stage: str, version: str | None, message: str | None) -> list[str]:
    """Tag `commit` with a version (None: the one it has, else the next patch) and assign the stage; returns the new tags' names.

    message: of the tags; None: gto's own.
    """
    with Git(search_parent_directories=True) as git:
        before = set(git.list_tags())
        try:
            # force: a version that had this stage before may get it again.
            gto.api.assign(Path(git.root_dir), ARTIFACT, stage, ref=commit, name_version=version, message=message, force=True)
        except (GTOException, SCMError, OSError) as error:
            # The version is tagged before the stage, and one without the other is no release.
            for tag in set(git.list_tags()) - before:
                git.remove_ref(f"refs/tags/{tag}")
            raise UserError(f"{ARTIFACT} cannot be given the stage '{stage}': {one_line(error)}") from None
        return sorted(set(git.list_tags()) - before)
