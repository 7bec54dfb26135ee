"""What every data source is: a frozen description that says which images, with which captions, and opens as a `Store`.

A source only has to yield `Example`s (`examples`) and say what on disk it depends on (`stamp`); decoding, captions,
splits, the cache and its safety are the same for all. A source of your own is one class in one file: see docs/data.md.
Next: `digits.py` for the smallest source, then `build.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, Field, model_validator

from limner.config import Config
from limner.data.captions import parse_template
from limner.errors import ConfigError

if TYPE_CHECKING:
    from limner.data.store import Store

Side = Annotated[int, Field(ge=1, le=8192)]
Size = Side | tuple[Side, Side] | None
UserPath = Annotated[Path, AfterValidator(lambda path: path.expanduser())]


@dataclass(slots=True)
class Example:
    """One image as a source finds it.

    Arguments:
        image: a file's path (str), the bytes of an encoded image, or pixels [H, W] or [C, H, W] uint8 (C 1 or 3).
        name: what messages call it: a path inside the source.
        label: the class, by number or by name, or None.
        texts: the texts that came with it.
        attributes: values for templates by name; what is neither text nor number is kept, but no template reads it.
        test: True when the source itself keeps it for testing.
        bad: why it cannot be used, when that is known before decoding; `image` is then None.
    """

    image: str | bytes | np.ndarray | None
    name: str
    label: int | str | None = None
    texts: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    test: bool = False
    bad: str = ""


class Source(Config):
    """Describes images with captions. `open` decodes them once into a memory-mapped store.

    Arguments:
        size: side of the square in pixels, or (height, width), after resizing the shorter side and cropping the centre;
            None keeps the images' own size, which must then be the same for all.
        channels: 1 (grey) or 3 (RGB).
        captions: templates (see `captions.py`); empty takes the source's own texts or its default wording.
        judge: share of the images that the generator never trains on, for the judge to train on.
        test: share that neither sees: the reference of all distances.
        limit: at most this many images.
        max_bad: share of unreadable images above which opening stops, with the list.
    """

    kind: str
    size: Size = 28
    channels: Literal[1, 3] = 3
    captions: tuple[str, ...] = ()
    judge: float = Field(0.15, ge=0, lt=1)
    test: float = Field(0.15, ge=0, lt=1)
    limit: int | None = Field(None, ge=1)
    max_bad: float = Field(0.01, ge=0, le=1)

    @model_validator(mode="after")
    def _checked(self) -> Source:
        for template in self.captions:
            parse_template(template)
        if self.judge + self.test >= 1:
            raise ConfigError(f"judge={self.judge:g} and test={self.test:g} leave nothing to train on: their sum must be below 1.")
        return self

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """[C, H, W] of a stored image, or None when it is the images' own."""
        if self.size is None:
            return None
        height, width = (self.size, self.size) if isinstance(self.size, int) else self.size
        return (self.channels, height, width)

    def open(self, cache: Path, *, processes: int | None = None) -> Store:
        """Return the store of this source in the folder `cache`, decoding into it first unless it is there.

        Arguments:
            processes: how many decode at once; None is one a core. The content is the same whatever it is.
        Raises: DataError for what cannot be read, MissingError for what has to be installed or fetched first.
        """
        from limner.data.build import open_or_build  # only here: building imports Pillow

        return open_or_build(self, Path(cache), processes=processes)

    def examples(self) -> Iterator[Example]:
        """Yield every image in an order that is always the same."""
        raise NotImplementedError

    def stamp(self) -> Any:
        """Return what tells one state of the source's files from another, as JSON (names, sizes, times)."""
        return None

    def wording(self) -> tuple[str, ...]:
        """Return the templates of the captions; empty for the texts of the images, or else "a photo of a {word}"."""
        return self.captions

    def class_names(self) -> tuple[str, ...] | None:
        """Return the classes' names in order, or None to collect and sort the names that the examples carry."""
        return None
