"""Data: images with captions, from wherever they are, as one memory-mapped store. Start with `source.py`."""

from limner.config import Config, Family
from limner.data.digits import Digits
from limner.data.folder import Folder
from limner.data.hub import Hub
from limner.data.idx import Idx
from limner.data.shards import WebDataset
from limner.data.source import Example, Source
from limner.data.store import BadFile, BadFilesError, Store
from limner.data.tables import Csv, Jsonl, Parquet


def _shapes() -> type[Config]:
    from limner.data.shapes import Shapes  # its verifier imports scipy

    return Shapes


SOURCES = Family(
    "data",
    {
        "digits": Digits,
        "idx": Idx,
        "folder": Folder,
        "jsonl": Jsonl,
        "csv": Csv,
        "parquet": Parquet,
        "hub": Hub,
        "webdataset": WebDataset,
        "shapes": _shapes,
    },
)

__all__ = [
    "SOURCES",
    "BadFile",
    "BadFilesError",
    "Config",
    "Csv",
    "Digits",
    "Example",
    "Folder",
    "Hub",
    "Idx",
    "Jsonl",
    "Parquet",
    "Source",
    "Store",
    "WebDataset",
]
