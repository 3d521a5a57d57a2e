"""CVAT for images 1.1 (XML): tags of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

from edgecls.data.formats.base import (
    Format,
    LabelFile,
    LabelledImage,
    NamedImage,
    classes_of,
    column_names,
    columns_of,
    size_of,
    split_in,
    split_of,
    xml_of,
)
from edgecls.errors import DataError
from edgecls.files import shortened, write_bytes

_FILE = "annotations.xml"
_SHAPES = ("box", "polygon", "polyline", "points", "ellipse", "cuboid", "skeleton", "mask")


def _read(path: Path) -> LabelFile:
    file = path / _FILE if path.is_dir() else path
    root = xml_of(file)
    if root.tag != "annotations":
        raise DataError(f"{shortened(file)} holds {root.tag}, not CVAT's annotations")
    if root.find("track") is not None:
        raise DataError(f"{shortened(file)} is of a video; export it from CVAT as 'CVAT for images 1.1'")
    shapes = sum(shape.tag in _SHAPES for image in root.iter("image") for shape in image)
    remarks = (f"{shapes} shapes are not read: tags are labels of whole images",) if shapes else ()
    return LabelFile(file.parent, [_image(each, file) for each in root.iter("image")], remarks)


def _image(element: Element, origin: Path) -> NamedImage:
    if not element.get("name"):
        raise DataError(f"{shortened(origin)}: an image has no name")
    labels = dict.fromkeys(label for tag in element.iter("tag") if (label := tag.get("label")))
    attributes = {each.get("name", ""): (each.text or "").strip() for each in element.findall("tag/attribute")}
    subset = element.get("subset")
    within = (f"images/{subset}", "images") if subset else ("images",)
    split = split_of(subset) or split_in(origin.stem)
    return NamedImage(element.get("name", ""), tuple(labels), split, columns_of(attributes), within)


def _write(images: Sequence[LabelledImage], out: Path) -> list[str]:
    root = Element("annotations")
    SubElement(root, "version").text = "1.1"
    labels = SubElement(SubElement(SubElement(root, "meta"), "task"), "labels")
    for name in classes_of(images):
        label = SubElement(labels, "label")
        SubElement(label, "name").text = name
        SubElement(label, "type").text = "tag"
        attributes = SubElement(label, "attributes")
        for column in column_names(images):
            attribute = SubElement(attributes, "attribute")
            for field, value in (("name", column), ("mutable", "False"), ("input_type", "text")):
                SubElement(attribute, field).text = value
            SubElement(attribute, "default_value")
            SubElement(attribute, "values")
    for number, image in enumerate(images):
        height, width = size_of(image.path)
        described = {"id": str(number), "name": image.name, "width": str(width), "height": str(height)}
        element = SubElement(root, "image", described | ({"subset": image.split} if image.split else {}))
        tag = SubElement(element, "tag", label=image.label, source="manual")
        for column, value in image.columns.items():
            SubElement(tag, "attribute", name=column).text = value
    ElementTree.indent(root)
    write_bytes(out, ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n")
    return []


def _recognises(path: Path, _content: Any) -> bool:
    return path.suffix.lower() == ".xml" or (path / _FILE).is_file()


FORMAT = Format("cvat", "CVAT for images (XML)", _recognises, _read, _write)
