"""The formats of sources. A new one is a module with a `Reader` and its line here."""

from carinspect.annotations.coco_source import COCO
from carinspect.annotations.csv_source import CSV
from carinspect.annotations.folders import FOLDERS
from carinspect.annotations.records import Reader
from carinspect.annotations.sources import Source
from carinspect.core.errors import UserError, did_you_mean

READERS: dict[str, Reader] = {"coco": COCO, "folders": FOLDERS, "csv": CSV}


def reader_of(source: Source, *, where: str) -> Reader:
    """Raises `UserError` for an unknown format, and for a key of the source that its format does not take."""
    if source.format not in READERS:
        raise UserError(f"{where}.format has the value '{source.format}'. {did_you_mean(source.format, READERS)}")
    reader = READERS[source.format]
    for key, field in Source.model_fields.items():
        if (
            key not in ("name", "format", "path", "chosen_by_model", "disagreement", *reader.keys)
            and getattr(source, key) != field.get_default()
        ):
            takers = " and ".join(name for name, other in READERS.items() if key in other.keys)
            raise UserError(f"{where}.{key}: format {source.format} does not take it. It is for {takers}. Remove it.")
    return reader
