"""Manifests, torchvision's data sets by name, and dividing images into splits."""

from __future__ import annotations

import gzip
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import Result

from edgecls.data.dataset import open_dataset, open_recorded
from edgecls.data.layout import index_dataset, read_manifest
from edgecls.data.sources import TORCHVISION, open_source
from edgecls.data.splits import Sample, divide
from edgecls.errors import DataError


class TestManifests:
    def rows(self, photos: Path) -> list[tuple[str, str]]:
        return [(str(path.relative_to(photos)), path.parent.name) for path in sorted(photos.rglob("*.jpg"))]

    def test_a_csv_names_images_labels_and_splits(self, photos: Path):
        rows = [f"{path},{label},{'valid' if '00' in path else 'train'}" for path, label in self.rows(photos)]
        (photos / "m.csv").write_text("\n".join(["path,label,split", *rows]))
        dataset = open_dataset(str(photos / "m.csv"), 0)
        assert dataset.classes == ("bright", "dark")
        assert [sample.key for sample in dataset.splits["val"]] == ["bright/00.jpg", "dark/00.jpg"]
        assert len(dataset.splits["test"]) == 4  # drawn from what is left

    @pytest.mark.parametrize("header", ["image,label", "Path,Class", "filename,label", "filepath, class"])
    def test_columns_may_have_the_names_that_people_use(self, photos: Path, header: str):
        (photos / "m.csv").write_text(f"{header}\ndark/00.jpg,night\nbright/00.jpg,day\n")
        classes, samples, _ = read_manifest(photos / "m.csv")
        assert (classes, len(samples["train"])) == (("day", "night"), 2)

    def test_our_own_names_of_columns_come_first(self, photos: Path):
        (photos / "m.csv").write_text(
            "filename,path,class,label\nx.jpg,dark/00.jpg,3,night\ny.jpg,bright/00.jpg,5,day\n"
        )
        classes, samples, _ = read_manifest(photos / "m.csv")
        assert classes == ("day", "night")
        assert samples["train"][0].key == "dark/00.jpg"

    def test_further_columns_are_known_of_each_image(self, photos: Path):
        (photos / "m.csv").write_text("image,label,Camera,note\ndark/00.jpg,night,2,\nbright/00.jpg,day,1,a b\n")
        expected = {"dark/00.jpg": {"camera": "2"}, "bright/00.jpg": {"camera": "1", "note": "a b"}}
        assert read_manifest(photos / "m.csv")[2] == index_dataset(str(photos / "m.csv")).columns == expected

    def test_a_jsonl_may_name_files_anywhere(self, photos: Path, tmp_path: Path):
        lines = [f'{{"path": "{photos / path}", "label": "{label}"}}' for path, label in self.rows(photos)]
        (tmp_path / "m.jsonl").write_text("\n".join(lines) + "\n\n")
        dataset = open_dataset(str(tmp_path / "m.jsonl"), 0)
        dataset.write(tmp_path)
        assert open_recorded(tmp_path).read(dataset.splits["train"][0]).shape == (30, 40, 3)

    @pytest.mark.parametrize(
        ("name", "text", "words"),
        [
            ("m.csv", "path,label\na.jpg,\n", "line 2: no label"),
            ("m.csv", "file,label\na.jpg,x\n", "line 2: no path"),
            ("m.csv", "path,label\na.jpg,x\na.jpg,y\n", "line 3: a.jpg stands there twice"),
            ("m.csv", "path,label,split\na.jpg,x,dev\n", "line 2: there is no split 'dev'; there are train, val, test"),
            ("m.jsonl", '{"path": "a.jpg"\n', "line 1 is not JSON"),
            ("m.jsonl", '["a.jpg"]\n', "line 1 is not a JSON object"),
            ("m.csv", b"\xff\xfe\x00", "cannot be read as text in UTF-8"),
            ("m.txt", "a.jpg x", "is a file; give a folder"),
            ("m.csv", "path,label\na.jpg,x\nb.jpg, \n", "has a class named ' '"),
            ("m.jsonl", '{"path": "a.jpg", "label": "a\\u0000"}\n', r"has a class named 'a\\x00'"),
        ],
    )
    def test_what_is_wrong_is_named_with_its_line(self, tmp_path: Path, name: str, text: str | bytes, words: str):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(DataError, match=words):
            index_dataset(str(tmp_path / name))

    def test_a_class_folder_without_a_name_is_refused_before_training_writes_a_card_with_it(self, photos: Path):
        (photos / "dark").rename(photos / " ")
        with pytest.raises(DataError, match="has a class named ' '"):
            index_dataset(str(photos))

    def test_missing_images_are_skipped_and_named(self, photos: Path):
        rows = [f"{path},{label}" for path, label in self.rows(photos)]
        (photos / "m.csv").write_text("\n".join(["path,label", *rows, "gone.jpg,dark"]))
        assert "No such file" in open_dataset(str(photos / "m.csv"), 0).skipped["gone.jpg"]


class TestTorchvision:
    @pytest.fixture
    def mnist(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """MNIST's own file format, with 40 and 20 images that hold their label in the corner."""
        raw = tmp_path / "downloads" / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part, count in (("train", 40), ("t10k", 20)):
            labels = (np.arange(count) % 10).astype(np.uint8)
            images = np.zeros((count, 28, 28), np.uint8)
            images[:, :8, :8] = (labels * 20)[:, None, None]
            for kind, header, content in (
                ("images-idx3", struct.pack(">IIII", 0x803, count, 28, 28), images),
                ("labels-idx1", struct.pack(">II", 0x801, count), labels),
            ):
                (raw / f"{part}-{kind}-ubyte").write_bytes(header + content.tobytes())
                (raw / f"{part}-{kind}-ubyte.gz").write_bytes(gzip.compress(header + content.tobytes()))
        monkeypatch.setenv("EDGECLS_DATA", str(tmp_path / "downloads"))
        return raw

    def test_a_set_that_is_there_is_read_by_torchvision(self, mnist: Path, tmp_path: Path):
        dataset = open_dataset("mnist", 0)
        assert len(dataset.classes) == 10
        assert {name: len(samples) for name, samples in dataset.splits.items()} == {"train": 30, "val": 10, "test": 20}
        sample = dataset.splits["test"][3]
        image = dataset.read(sample)
        assert image.shape == (28, 28, 3)
        assert image[0, 0].tolist() == [20 * sample.label] * 3
        assert dataset.source.fingerprint(sample.key) != dataset.source.fingerprint(dataset.splits["test"][4].key)
        dataset.write(tmp_path)
        assert open_recorded(tmp_path).source.location == open_source("mnist").location == "mnist"
        assert (dataset.source.photographs, dataset.source.default_augment) == (False, "light")

    def test_a_set_that_cannot_be_fetched_is_one_clear_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Callable[..., Result]
    ):
        monkeypatch.setenv("EDGECLS_DATA", str(tmp_path / "empty"))
        for name in ("http_proxy", "https_proxy", "HTTPS_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        result = cli("train", "cifar10")
        assert result.exit_code == 3
        assert "the data set cifar10 is not in" in result.stderr
        assert "connect to the network once" in result.stderr

    @pytest.mark.parametrize("name", TORCHVISION)
    def test_every_name_is_one_of_torchvisions_with_these_arguments(self, name: str):
        import inspect

        from edgecls.models.vision import import_torchvision

        import_torchvision()
        from torchvision import datasets

        named = TORCHVISION[name]
        known = inspect.signature(getattr(datasets, named.cls)).parameters
        for arguments in named.splits.values():
            assert {*arguments, *named.options, "download"} <= set(known)


class TestDividing:
    SAMPLES = tuple(
        Sample(f"{name}/video{index // 8}_{index % 8}.jpg", label)
        for label, name in enumerate(("a", "b"))
        for index in range(120 if label else 60)
    )

    def test_each_class_is_divided_in_its_proportion(self):
        splits = divide(self.SAMPLES, lambda sample: sample.key, {"val": 0.1, "test": 0.2}, seed=0)
        counts = {split: Counter(sample.label for sample in samples) for split, samples in splits.items()}
        assert counts == {"train": {0: 42, 1: 84}, "val": {0: 6, 1: 12}, "test": {0: 12, 1: 24}}

    def test_groups_stay_together_and_the_seed_decides(self):
        def video(sample: Sample) -> str:
            return sample.key.split("_")[0]

        splits = divide(self.SAMPLES, video, {"val": 0.2, "test": 0.2}, seed=0)
        videos = [{video(sample) for sample in samples} for samples in splits.values()]
        assert not videos[0] & videos[1]
        assert not videos[0] & videos[2]
        assert not videos[1] & videos[2]
        assert sum(map(len, splits.values())) == 180
        assert all(25 <= len(splits[name]) <= 50 for name in ("val", "test"))
        assert divide(self.SAMPLES, video, {"val": 0.2, "test": 0.2}, 0) == splits
        assert divide(self.SAMPLES, video, {"val": 0.2, "test": 0.2}, 1) != splits

    def test_too_few_groups_are_said(self):
        with pytest.raises(DataError, match="2 groups are too few for 3 splits"):
            divide(self.SAMPLES, lambda sample: sample.key[0], {"val": 0.2, "test": 0.2}, 0)

    def test_the_command_writes_a_manifest_that_training_reads(
        self, photos: Path, cli: Callable[..., Result], tmp_path: Path
    ):
        result = cli("data", "split", photos, "--out", photos / "split.csv", "--group-by", r"/(\d)")
        assert result.exit_code == 2 or result.exit_code == 3, "two groups are too few"
        result = cli("data", "split", photos, "--out", photos / "split.csv", "--group-by", r"(\d\d)\.jpg")
        assert result.exit_code == 0, result.output
        assert ", 12 groups" in result.output
        classes, splits, _ = read_manifest(photos / "split.csv")
        assert classes == ("bright", "dark")
        frames = {name: {sample.key[-6:] for sample in samples} for name, samples in splits.items()}
        assert not frames["train"] & (frames["val"] | frames["test"])
        assert len(open_dataset(str(photos / "split.csv"), 0).splits["train"]) == len(splits["train"])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (("--val", "0.6", "--test", "0.5"), "--val and --test are shares"),
            (("--group-by", "("), "is no regular expression"),
            (("--group-by", "frame"), "finds nothing in"),
        ],
    )
    def test_mistakes(self, photos: Path, cli: Callable[..., Result], tmp_path: Path, arguments, words: str):
        result = cli("data", "split", photos, "--out", tmp_path / "s.csv", *arguments)
        assert result.exit_code in (2, 3)
        assert words in result.stderr
        assert not (tmp_path / "s.csv").exists()
