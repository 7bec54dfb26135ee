"""Data: images with captions, from wherever they are, as one memory-mapped store. Start with `source.py`."""

from limner.config import Config, Family
from limner.data.digits import Digits
from limner.data.folder import Folder
from limner.data.idx import Idx
from limner.data.source import Example, Source
from limner.data.store import BadFile, BadFilesError, Store

SOURCES = Family("data", {"digits": Digits, "idx": Idx, "folder": Folder})

__all__ = ["SOURCES", "BadFile", "BadFilesError", "Config", "Digits", "Example", "Folder", "Idx", "Source", "Store"]
