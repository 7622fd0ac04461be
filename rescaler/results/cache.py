"""A columnar copy of many small files, kept beside them in a hidden file, so that they are read once."""

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from pandas import DataFrame

from rescaler.errors import InputError, one_line
from rescaler.files import replacing

log = logging.getLogger(__name__)

_WORTHWHILE = 100
"""Files from which on a copy saves more than it disturbs; fewer are read within a second."""
_DIGEST_BYTES = 16


class Cache:
    """The rows that files give, all in one file ``.rescaler-<name>.cache`` in ``folder``: a digest, then Parquet.

    Rows count only while the stamp of their file is the one that was read. A copy that is damaged or has other columns
    is ignored and replaced; where none can be written, all works without. Parquet's own check sums leave out its
    headers, where a flipped bit passes for another number: hence the digest of the whole.
    """

    def __init__(self, folder: Path, name: str, columns: Sequence[str]) -> None:
        self._folder = folder
        self._path = folder / f".rescaler-{name}.cache"
        self._columns = [*columns, "file"]

    def read(self, stamps: Mapping[str, str], read: Callable[[str], DataFrame | None]) -> DataFrame:
        """The rows of each file, in the order of ``stamps``.

        Args:
            stamps: file, relative to the folder -> what changes whenever it is written; empty: not to be copied.
            read: reads one file's rows; None where it has none.

        Returns:
            The columns, and ``file``.
        """
        if len(stamps) < _WORTHWHILE:
            return _joined(_read_each(stamps, read).values(), stamps)
        copy, known = self._load()
        valid = {file for file, stamp in stamps.items() if stamp and known.get(file) == stamp}
        if len(valid) == len(stamps) and list(known) == list(stamps):
            return copy  # whole and in order: what is read most often
        fresh = _read_each([file for file in stamps if file not in valid], read)
        rows = _joined([copy[copy["file"].isin(valid)], *fresh.values()], stamps)
        if any(stamps[file] for file in fresh):
            copied = {file: stamp for file, stamp in stamps.items() if stamp and (file in valid or file in fresh)}
            others = {file: known[file] for file in known if file not in stamps and (self._folder / file).exists()}
            self._write(_joined([rows, copy[copy["file"].isin(others)]], copied | others), copied | others)
        return rows

    def _load(self) -> tuple[DataFrame, dict[str, str]]:
        import pyarrow
        import pyarrow.parquet

        try:
            with pyarrow.memory_map(str(self._path)) as file:
                digest, content = file.read(_DIGEST_BYTES), file.read_buffer()
                if digest != _digest(content):
                    raise ValueError("it is damaged")
                table = pyarrow.parquet.read_table(pyarrow.BufferReader(content))
            known = json.loads(table.schema.metadata[b"stamps"])
            if table.column_names != self._columns:
                raise ValueError("other columns")
            rows = table.to_pandas(split_blocks=True, self_destruct=True, ignore_metadata=True)
        except FileNotFoundError:
            return DataFrame(columns=self._columns), {}
        except (OSError, ValueError, KeyError, TypeError) as error:  # pyarrow's errors are ValueErrors
            log.warning("%s is built anew: %s", self._path, one_line(error))
            return DataFrame(columns=self._columns), {}
        return rows, known

    def _write(self, rows: DataFrame, stamps: Mapping[str, str]) -> None:
        import pyarrow
        import pyarrow.parquet

        table = pyarrow.Table.from_pandas(rows[self._columns], preserve_index=False)
        table = table.replace_schema_metadata({"stamps": json.dumps(stamps)})
        try:
            with replacing(self._path) as temporary:
                sink = pyarrow.BufferOutputStream()
                pyarrow.parquet.write_table(table, sink, compression="zstd")
                content = sink.getvalue()
                with temporary.open("wb") as file:
                    file.write(_digest(content))
                    file.write(content)
        except InputError as error:
            log.debug("no copy is kept: %s", error)


def _digest(content: Any) -> bytes:
    return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _read_each(files: Iterable[str], read: Callable[[str], DataFrame | None]) -> dict[str, DataFrame]:
    """The rows of those files that have any, by file."""
    found = ((file, read(file)) for file in files)
    return {file: rows.assign(file=file) for file, rows in found if rows is not None}


def _joined(parts: Iterable[DataFrame], order: Mapping[str, str]) -> DataFrame:
    """Frames below each other, those files alone that ``order`` names, in its order."""
    parts = [part for part in parts if not part.empty]
    if not parts:
        return DataFrame(columns=["file"])
    rows = pd.concat([part.astype({"file": object}) for part in parts], ignore_index=True)
    rows = rows[rows["file"].isin(order)]
    rows["file"] = pd.Categorical(rows["file"], categories=list(order))
    return rows.sort_values("file", kind="stable", ignore_index=True)
