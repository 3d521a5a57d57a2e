"""Whatever stands in a card, a manifest, an address or a number: what was meant, or one clear error."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from edgecls.artifact.card import Card, Lineage, Quality, Runtime
from edgecls.cli.command import parse_numbers
from edgecls.data.layout import read_manifest
from edgecls.errors import ArtifactError, DataError, EdgeclsError, UsageError
from edgecls.fields import parse_json
from edgecls.files import parse_toml
from edgecls.imaging.preprocess import Preprocess
from edgecls.importers.model import read_classes
from edgecls.streaming.frames import Region
from edgecls.training.config import TrainConfig
from edgecls.urls import SecretUrl, checked
from tests.schemas import allows

CARD = Card(
    "resnet18", ("red apple", "pear"), Preprocess(48, 64), "onnx", "int8",
    runtime=Runtime("onnxruntime", "1.0", batch=(1, 1, 8)),
    lineage=Lineage(
        created="2026-01-01", files={"model.onnx": "ab"}, parent="cd", recipe={"a": 1}, candidates=[{"b": 2}]
    ),
    quality=Quality(split="test", images=10, top1=0.9, agreement=1.0, gain=1.2, recommended=True),
).to_json()  # fmt: skip
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
TEXT = st.text(max_size=40)


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, each in inner for leaf in leaves(each, (*path, key)))]


@given(path=st.sampled_from(leaves(CARD)[1:]), value=ANYTHING, removed=st.booleans())
def test_a_card_with_any_field_changed_is_refused_or_makes_sense(path: tuple[Any, ...], value: Any, removed: bool):
    record = copy.deepcopy(CARD)
    inner: Any = record
    for key in path[:-1]:
        inner = inner[key]
    if removed:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    try:
        card = Card.from_json(record, "card.json")
    except ArtifactError as error:
        assert "\n" not in str(error)
        return
    assert min(card.input_shape) > 0
    assert len(set(card.classes)) == len(card.classes) > 0
    assert math.isfinite(card.confidence.temperature)
    assert card.confidence.temperature > 0
    assert all(math.isfinite(value) and value > 0 for value in card.preprocess.std)
    assert Card.from_json(json.loads(json.dumps(card.to_json())), "again") == card


def whole(value: Any) -> Any:
    """The value with whole numbers written as such: JSON Schema does not tell 3.0 from 3, as the reader does."""
    if isinstance(value, dict):
        return {key: whole(each) for key, each in value.items()}
    if isinstance(value, list):
        return [whole(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@given(
    path=st.sampled_from(leaves({key: value for key, value in CARD.items() if key != "io"})[1:]),
    value=ANYTHING | st.sampled_from([0, 1, -1, 0.5, 1e-7, 1e9, 8192, "", ".", "a b", "\n", "imported", ["a", "a"]]),
    removed=st.booleans(),
)
def test_the_published_schema_and_the_reader_refuse_the_same_cards(path: tuple[Any, ...], value: Any, removed: bool):
    """Without `io`, which repeats the rest, and with batches that ascend: no schema can say either."""
    record = copy.deepcopy({key: value for key, value in CARD.items() if key != "io"})
    inner: Any = record
    for key in path[:-1]:
        inner = inner[key]
    if removed:
        del inner[path[-1]]
    else:
        inner[path[-1]] = whole(value)
    try:
        record = parse_json(json.dumps(record))
    except ValueError:  # NaN, which JSON has not
        return
    try:
        Card.from_json(record, "card.json")
    except ArtifactError as error:
        assert not allows("card", record) or "in this order" in str(error)
        return
    assert allows("card", record)


@given(text=TEXT)
def test_a_card_of_any_text_is_refused(text: str):
    assume(text)
    with pytest.raises(ArtifactError):
        Card.from_embedded(text, "model.onnx")


@given(text=TEXT | st.lists(st.floats() | st.integers(), max_size=5).map(lambda values: ",".join(map(str, values))))
def test_numbers_are_finite_or_none(text: str):
    try:
        values = parse_numbers(text, float)
    except ValueError:
        return
    assert values
    assert all(math.isfinite(value) for value in values)


@given(
    text=TEXT | st.lists(st.floats() | st.integers(), min_size=4, max_size=4).map(lambda v: ",".join(map(str, v))),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
)
def test_a_region_lies_in_the_picture_or_is_empty_or_refused(text: str, height: int, width: int):
    try:
        region = Region.parse(text)
    except UsageError:
        return
    part = region.of(np.zeros((height, width, 3), np.uint8))
    assert part.shape[0] <= height
    assert part.shape[1] <= width


WORD = st.text("abcdefgh0123456789", min_size=1, max_size=6)
SECRET = st.text("QRSTUVWXYZ@/:#%!$", min_size=4, max_size=12).filter(lambda s: any(c.isalpha() for c in s))


@given(
    scheme=st.sampled_from(["rtsp", "http", "https", "mqtt", "postgresql", "rstp", "htp"]),
    user=WORD,
    secret=SECRET,
    host=WORD,
    path=WORD,
)
def test_no_word_of_a_secret_is_shown(scheme: str, user: str, secret: str, host: str, path: str):
    letters = "".join(c for c in secret if c.isalpha())
    for address in (f"{scheme}://{user}:{secret}@{host}/{path}", f"{scheme}://{host}/{path}?key={letters}"):
        for shown in (
            str(SecretUrl(address)),
            repr(SecretUrl(address)).removeprefix("SecretUrl"),
            f"{SecretUrl(address)}",
        ):
            assert not set(shown) & set(letters), (address, shown)


@given(text=TEXT | st.builds("http://{}".format, TEXT))
def test_an_address_can_work_or_is_refused_in_one_line(text: str):
    try:
        parts = checked(text, ("http", "https"), "`webhook`", "an http address")
    except UsageError as error:
        assert len(str(error).splitlines()) == 1
        return
    assert parts.hostname
    assert 0 < (parts.port or 80) < 65536


@given(content=st.binary(max_size=80) | TEXT.map(lambda text: ("path,label\n" + text).encode(errors="replace")))
@pytest.mark.parametrize("name", ["m.csv", "m.jsonl"])
def test_a_manifest_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes):
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(content)
    try:
        classes, samples, _ = read_manifest(file)
    except DataError:
        return
    assert all(0 <= sample.label < len(classes) for split in samples.values() for sample in split)


@given(content=st.binary(max_size=60) | ANYTHING.map(lambda value: json.dumps(value).encode()))
@pytest.mark.parametrize("name", ["labels.txt", "labels.json"])
def test_class_names_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, name: str, content: bytes):
    file = tmp_path_factory.getbasetemp() / name
    file.write_bytes(content)
    try:
        names = read_classes(file)
    except DataError:
        return
    assert len(set(names)) == len(names) >= 2
    assert all(names)


@given(name=st.sampled_from(sorted(TrainConfig.__dataclass_fields__)), value=ANYTHING)
def test_a_configuration_with_any_value_is_taken_or_refused(tmp_path_factory, name: str, value: Any):
    from edgecls.training.config import read_config

    try:
        text = f"{name} = {json.dumps(value)}\n"
        parse_toml(text, "x")
    except (EdgeclsError, ValueError):
        return
    file: Path = tmp_path_factory.getbasetemp() / "config.toml"
    file.write_text(text, encoding="utf-8", errors="replace")
    try:
        TrainConfig(**read_config(file)).check()
    except EdgeclsError:
        return
