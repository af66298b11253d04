"""A style inside the file: QGIS draws the outlines of every class in a colour of its own as soon as the layer is opened."""

from __future__ import annotations

import colorsys
import sqlite3
from contextlib import closing
from pathlib import Path
from xml.etree import ElementTree as Xml

Colour = tuple[int, int, int]

# Okabe and Ito's colours without black and grey: told apart by colour-blind eyes too, on dark and bright scenes.
_COLOURS: tuple[Colour, ...] = (
    (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167),
)  # fmt: skip

_TABLE = """
CREATE TABLE layer_styles (
  id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL, f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256),
  f_geometry_column TEXT(256), styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT,
  owner TEXT(30), ui TEXT(30), update_time DATETIME DEFAULT CURRENT_TIMESTAMP
)"""
_REGISTER = """
INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)
VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?, 0)"""
_INSERT = """
INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName, styleQML, styleSLD,
  useAsDefault, description, owner, update_time) VALUES ('', '', ?, ?, 'seggeo', ?, ?, 1, 'Outlines by class', '', ?)"""


def colour_of(index: int) -> Colour:
    """Red, green and blue, 0 to 255, of the class with this index; no two of the first hundred are alike."""
    if index < len(_COLOURS):
        return _COLOURS[index]
    hue = (index * 0.618034) % 1.0  # steps of the golden ratio never come back to a hue
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.55 + 0.15 * (index % 3), 0.95)
    return round(red * 255), round(green * 255), round(blue * 255)


def install(path: Path, layer: str, geometry: str, classes: tuple[str, ...], now: str) -> None:
    """Put the default style of `layer` into a GeoPackage.

    Args:
        path: A GeoPackage that nobody else has open.
        layer: Table of the features.
        geometry: Name of its geometry column.
        classes: Class names, as the features' column `class` spells them.
        now: Time stamp to record, ISO 8601.
    """
    with closing(sqlite3.connect(path)) as base, base:
        base.execute(_TABLE)
        base.execute(_REGISTER, (now,))
        base.execute(_INSERT, (layer, geometry, qml(classes), sld(layer, classes), now))


def qml(classes: tuple[str, ...]) -> str:
    """QGIS's own style document."""
    root = Xml.Element("qgis", version="3.22.0", styleCategories="Symbology")
    renderer = Xml.SubElement(root, "renderer-v2", type="categorizedSymbol", attr="class", symbollevels="0", forceraster="0")
    categories, symbols = Xml.SubElement(renderer, "categories"), Xml.SubElement(renderer, "symbols")
    for index, name in enumerate(classes):
        text = printable(name)
        Xml.SubElement(categories, "category", symbol=str(index), value=text, label=text, render="true", type="string")
        symbol = Xml.SubElement(symbols, "symbol", name=str(index), type="fill", alpha="1", clip_to_extent="1")
        layer = Xml.SubElement(symbol, "layer", {"class": "SimpleFill", "enabled": "1", "locked": "0", "pass": "0"})
        colour = ",".join(str(v) for v in (*colour_of(index), 255))
        values = {"style": "no", "outline_color": colour, "outline_style": "solid", "outline_width": "0.46"}
        for key, value in {**values, "outline_width_unit": "MM", "joinstyle": "miter"}.items():
            Xml.SubElement(layer, "prop", k=key, v=value)
    return "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>\n" + Xml.tostring(root, encoding="unicode")


def sld(layer: str, classes: tuple[str, ...]) -> str:
    """The same outlines as an OGC Styled Layer Descriptor, for GeoServer and others."""
    space = {"xmlns": "http://www.opengis.net/sld", "xmlns:ogc": "http://www.opengis.net/ogc"}
    root = Xml.Element("StyledLayerDescriptor", {"version": "1.0.0", **space})
    named = Xml.SubElement(root, "NamedLayer")
    Xml.SubElement(named, "Name").text = layer
    style = Xml.SubElement(Xml.SubElement(named, "UserStyle"), "FeatureTypeStyle")
    for index, name in enumerate(classes):
        rule = Xml.SubElement(style, "Rule")
        Xml.SubElement(rule, "Name").text = printable(name)
        equal = Xml.SubElement(Xml.SubElement(rule, "ogc:Filter"), "ogc:PropertyIsEqualTo")
        Xml.SubElement(equal, "ogc:PropertyName").text = "class"
        Xml.SubElement(equal, "ogc:Literal").text = printable(name)
        stroke = Xml.SubElement(Xml.SubElement(rule, "PolygonSymbolizer"), "Stroke")
        colour = "#" + "".join(f"{v:02x}" for v in colour_of(index))
        for key, value in (("stroke", colour), ("stroke-width", "1.5")):
            Xml.SubElement(stroke, "CssParameter", name=key).text = value
    return Xml.tostring(root, encoding="unicode")


def printable(text: str) -> str:
    """The text with characters that XML cannot hold replaced."""
    return "".join(
        c if c in "\t\n\r" or (c >= " " and not "\ud800" <= c <= "\udfff" and c not in "\ufffe\uffff") else "\ufffd"
        for c in text
    )
