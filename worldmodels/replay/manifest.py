"""The manifest of a replay's folder: which segments have files, and which tails belong to them.

Its first line is the generation of the tails, every other line a segment; each line carries its
checksum, so that a reader stops where a kill, or the disk, tore it. `layout.json` beside it says
what a row holds.
"""

import json
import zlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from worldmodels.files import write_text
from worldmodels.replay.files import FileRecord
from worldmodels.replay.segment import Segment

LAYOUT = "layout.json"
MANIFEST = "manifest.jsonl"


@dataclass(frozen=True)
class Entry:
    """A segment file as the manifest names it."""

    first: int
    rows: int
    born: int
    file: FileRecord


def write_manifest(folder: Path, generation: int, segments: Iterable[Segment]) -> None:
    """Replace the manifest by one that names the files of these segments."""
    lines = [_signed({"generation": generation})]
    lines += [manifest_line(segment) for segment in segments if segment.file]
    write_text(folder / MANIFEST, "".join(lines))


def read_layout(folder: Path) -> dict[str, Any]:
    """What `Journal.describe` wrote; empty where there is nothing that can be read."""
    try:
        return json.loads((folder / LAYOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}


def read_manifest(folder: Path) -> list[Entry]:
    """The entries of a manifest up to the first line that is torn; of equal segments the last."""
    entries: dict[int, Entry] = {}
    for first, rows, born, file in _lines(folder)[1:]:
        entries[first] = Entry(first, rows, born, FileRecord(**file))
    return list(entries.values())


def generation(folder: Path) -> int:
    """Generation of the tails that the manifest goes with; without a manifest the newest one."""
    lines = _lines(folder)
    return lines[0]["generation"] if lines else newest_generation(folder)


def newest_generation(folder: Path) -> int:
    """The newest on disk, valid or never finished."""
    lines = _lines(folder)
    tails = [int(path.stem.split("_")[1]) for path in folder.glob("tail_*.rows")]
    return max([*tails, lines[0]["generation"] if lines else 0])


def _lines(folder: Path) -> list[Any]:
    """The values of a manifest's lines up to the first one that is torn."""
    lines = _text(folder).splitlines()
    return [json.loads(line.partition(" ")[2]) for line in takewhile(_is_whole, lines)]


def damaged_lines(folder: Path) -> int:
    """Lines of a manifest that cannot be read, apart from a torn last one, which no kill avoids."""
    lines = _text(folder).splitlines()
    return max(len(lines) - sum(1 for _ in takewhile(_is_whole, lines)) - 1, 0)


def _text(folder: Path) -> str:
    path = folder / MANIFEST
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _is_whole(line: str) -> bool:
    crc, _, text = line.partition(" ")
    return f"{zlib.crc32(text.encode()):08x}" == crc


def manifest_line(segment: Segment) -> str:
    """The line, end included, that names a segment's file."""
    assert segment.file is not None
    return _signed([segment.first, segment.rows, segment.born, asdict(segment.file)])


def _signed(value: Any) -> str:
    text = json.dumps(value)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"
