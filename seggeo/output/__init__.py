"""Sinks: functions that pull a merged result and publish one file of it, whole or not at all.

`vector` writes features (GeoPackage, FlatGeobuf, GeoParquet, GeoJSON) out of `polygons` (exact pixel outlines, traced by
`rings`), `measures` (sizes on the ellipsoid) and `wkb` (the bytes that files hold), which `features` brings together;
`labels` and `preview` write rasters; `files` is how all of them publish.
"""
