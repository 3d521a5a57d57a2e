"""Images on a device are found by the rules by which training finds them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgecls.adapting.photos import labelled_photos
from edgecls.data.layout import index_dataset
from edgecls.errors import DataError
from tests.digit_photos import write_digits

TWO = ("one", "two")


def found(location: Path) -> set[tuple[str, str, str]]:
    """File, class and split of each image; without a split it is of "train"."""
    return {(photo.path.name, photo.label, photo.split or "train") for photo in labelled_photos(location)}


def trained(location: Path) -> set[tuple[str, str, str]]:
    """The same as training has it."""
    index = index_dataset(str(location))
    return {
        (Path(sample.key).name, index.classes[sample.label], split)
        for split, samples in index.splits.items()
        for sample in samples
        if sample.key not in index.quarantine
    }


@pytest.fixture
def digits(tmp_path: Path) -> Path:
    return write_digits(tmp_path / "digits", TWO, 0, 6)


@pytest.mark.parametrize("val_name", ["val", "valid", "validation"])
def test_class_folders_may_lie_in_folders_of_splits(tmp_path: Path, val_name: str) -> None:
    for number, split in enumerate(("train", val_name, "test")):
        write_digits(tmp_path / split, TWO, 4 * number, 4)
    assert {label for _, label, _ in found(tmp_path)} == set(TWO)
    assert found(tmp_path) == trained(tmp_path)
    write_digits(tmp_path / "valid", TWO, 20, 1)
    write_digits(tmp_path / "val", TWO, 20, 1)
    with pytest.raises(DataError, match="has both val/ and valid"):
        labelled_photos(tmp_path)


def test_images_in_quarantine_are_left_out(digits: Path) -> None:
    bad = sorted(digits.rglob("*.png"))[0]
    (digits / "quarantine.csv").write_text(f"path,reason\n{bad.relative_to(digits)},blurred\n")
    assert len(found(digits)) == 11
    assert found(digits) == trained(digits)


@pytest.mark.parametrize("header", ["Image,Class,Split", "filename,label,split", "path,label,split"])
def test_columns_may_have_other_names(digits: Path, header: str) -> None:
    rows = [f"{path.relative_to(digits)},{path.parent.name},valid" for path in sorted(digits.rglob("*.png"))]
    manifest = digits / "list.csv"
    manifest.write_text("\n".join([header, *rows]))
    assert {split for *_, split in found(manifest)} == {"val"}
    assert found(manifest) == trained(manifest)


def test_a_manifest_may_hold_line_breaks_in_quotes_and_be_jsonl(digits: Path) -> None:
    first, *_, last = sorted(digits.rglob("*.png"))
    lines = [f'{path.relative_to(digits)},{path.parent.name},"a note,\nof two lines"' for path in (first, last)]
    (digits / "list.csv").write_text("\n".join(["path,label,note", *lines]))
    (digits / "list.jsonl").write_text(
        "".join(f'{{"path": "{path.relative_to(digits)}", "label": "{path.parent.name}"}}\n' for path in (first, last))
    )
    expected = {(path.name, path.parent.name, "train") for path in (first, last)}
    assert found(digits / "list.csv") == found(digits / "list.jsonl") == expected


def test_another_file_called_data_csv_is_not_taken_for_a_list(digits: Path) -> None:
    (digits / "data.csv").write_text("temperature,humidity\n20,50\n")
    assert len(found(digits)) == 12
    assert found(digits) == trained(digits)


def test_a_line_without_a_label_and_an_unknown_split_are_named(digits: Path) -> None:
    manifest = digits / "list.csv"
    manifest.write_text("path,label\na.png,\n")
    with pytest.raises(DataError, match="line 2: no label"):
        labelled_photos(manifest)
    manifest.write_text("path,label,split\na.png,one,exam\n")
    with pytest.raises(DataError, match="there is no split 'exam'"):
        labelled_photos(manifest)
