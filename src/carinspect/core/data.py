"""The `data` section of params.yaml: the folder of the photos and the file that describes their sources."""

from pathlib import Path

from carinspect.core.params import Section


class DataParams(Section):
    """Paths are relative to the repository's root, or absolute."""

    root: str
    """Folder that every `image_path` of the tables is relative to."""
    sources: str
    """YAML file that lists the sources in the root and the meaning of their categories."""

    @property
    def root_path(self) -> Path:
        return Path(self.root)

    @property
    def sources_path(self) -> Path:
        return Path(self.sources)
