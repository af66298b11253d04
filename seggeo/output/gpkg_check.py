"""Whether a GeoPackage holds all that GDAL was to put into it besides the objects.

GDAL goes on where a table, the coordinate system or the spatial index could not be written, with a warning at most: after
an error of the disk that passes, a file would be left that opens and lacks something. An empty layer, written the same way,
says what must be there.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from seggeo.errors import OutputError

_ROWS = (
    "SELECT type, name, tbl_name, sql FROM sqlite_master",
    "SELECT * FROM gpkg_spatial_ref_sys",
    "SELECT * FROM gpkg_geometry_columns",
    "SELECT * FROM gpkg_extensions",
    "SELECT * FROM gpkg_metadata",
    "SELECT * FROM gpkg_metadata_reference",
    "SELECT table_name, data_type, identifier, description, srs_id FROM gpkg_contents",
    "PRAGMA application_id",
    "PRAGMA user_version",
)
"""What does not depend on the objects."""


def check_gpkg(path: Path, empty: Path, *, layer: str, geometry: str, count: int) -> None:
    """Refuse a GeoPackage that is not whole.

    Args:
        path: What GDAL wrote.
        empty: What it wrote of no objects, with the same settings.
        layer: Table of the objects.
        geometry: Name of its geometry column.
        count: Objects.

    Raises:
        OutputError: Something is missing.
        sqlite3.Error: It cannot be read.
    """
    with closing(sqlite3.connect(path)) as base, closing(sqlite3.connect(empty)) as like:
        for query in _ROWS:
            missing = set(like.execute(query)) - set(base.execute(query))
            if missing:
                raise _broken(path, f"it lacks {' '.join(map(str, min(missing, key=repr)))[:200]!r}")
        index = f'SELECT count(*) FROM "rtree_{layer}_{geometry}_rowid"'
        ((indexed,),) = base.execute(index)
        ((counted,),) = base.execute("SELECT feature_count FROM gpkg_ogr_contents WHERE table_name = ?", (layer,))
        (extent,) = base.execute("SELECT min_x, min_y, max_x, max_y FROM gpkg_contents WHERE table_name = ?", (layer,))
    if count and None in extent:
        raise _broken(path, "it does not say how far its layer reaches")
    if (indexed, counted) != (count, count):
        raise _broken(path, f"its index holds {indexed} and its count says {counted} of {count} objects")


def _broken(path: Path, why: str) -> OutputError:
    return OutputError(
        what=f"{path.name} was not written as a whole", why=f"{why}: the driver met an error and went on",
        mend="check the disk and run the same command again",
    )  # fmt: skip
