"""Stores: one that fails for a while costs time and nothing else, one that fails for longer ends the job."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgecls.bulk import stores as stores_module
from edgecls.errors import DataError, MissingExtraError, OutputError, SourceError
from tests.bulk.conftest import Predict, answers_of, rows_of, write_tar

fsspec = pytest.importorskip("fsspec")
pytest.importorskip("pyarrow")


@pytest.fixture
def unsteady() -> Iterator[dict[str, int]]:
    """A file system in memory, unsteady://, of whose calls the next so many fail, by name."""
    from fsspec.implementations.memory import MemoryFileSystem

    failures: dict[str, int] = {}

    class Unsteady(MemoryFileSystem):
        protocol = "unsteady"
        store: dict[str, object] = {}  # noqa: RUF012
        pseudo_dirs = [""]  # noqa: RUF012

        @classmethod
        def _strip_protocol(cls, path: str) -> str:
            return super()._strip_protocol(path.replace("unsteady://", "memory://"))

        def _asked(self, call: str, arguments: tuple[object, ...], options: dict[str, object]) -> object:
            if failures.get(call, 0):
                failures[call] -= 1
                raise ConnectionResetError("the connection was reset")
            return getattr(super(), call)(*arguments, **options)

        def ls(self, *arguments: object, **options: object) -> object:
            return self._asked("ls", arguments, options)

        def cat_file(self, *arguments: object, **options: object) -> object:
            return self._asked("cat_file", arguments, options)

        def pipe_file(self, *arguments: object, **options: object) -> object:
            return self._asked("pipe_file", arguments, options)

    fsspec.register_implementation("unsteady", Unsteady, clobber=True)
    yield failures
    Unsteady.clear_instance_cache()


@pytest.fixture
def stored(unsteady: dict[str, int], paths: list[Path]) -> str:
    fsspec.filesystem("unsteady").pipe({f"/in/{path.parent.name}/{path.name}": path.read_bytes() for path in paths})
    return "unsteady://in"


def test_a_store_that_fails_for_a_while_is_asked_again(
    predict: Predict, unsteady: dict[str, int], stored: str, photos: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):  # fmt: skip
    monkeypatch.setattr(stores_module, "FIRST_PAUSE_S", 0.001)
    unsteady.update(ls=3, cat_file=9, pipe_file=5)
    summary = predict("unsteady://out", stored, patience_s=60.0)
    assert (summary.total.images, summary.total.unreadable, summary.parts) == (24, 0, 5)
    assert not any(unsteady.values())
    predict(tmp_path / "local", photos)
    for part in fsspec.filesystem("unsteady").glob("/out/part-*"):
        (tmp_path / Path(part).name).write_bytes(fsspec.filesystem("unsteady").cat_file(part))
    assert answers_of(tmp_path) == answers_of(tmp_path / "local")


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        ("ls", SourceError, "cannot list"),
        ("cat_file", SourceError, "cannot read"),
        ("pipe_file", OutputError, "cannot write"),
    ],
)
def test_a_store_that_fails_for_longer_ends_the_job_and_the_next_one_goes_on(
    predict: Predict, unsteady: dict[str, int], stored: str, tmp_path: Path, call: str, error: type, words: str
):
    out = "unsteady://out" if call == "pipe_file" else tmp_path / "out"
    unsteady[call] = 10**9
    with pytest.raises(error, match=f"{words} .*the connection was reset"):
        predict(out, stored)
    unsteady[call] = 0
    assert predict(out, stored).total.unreadable == 0


def test_an_image_that_the_store_has_not_is_a_row(predict: Predict, stored: str, tmp_path: Path):
    (tmp_path / "list.txt").write_text(f"{stored}/dark/00.jpg\n{stored}/gone.jpg\n")
    assert predict(tmp_path / "out", list_file=tmp_path / "list.txt").total.unreadable == 1
    gone = rows_of(tmp_path / "out")[1]
    assert gone["image"] == f"{stored}/gone.jpg"
    assert "no such file" in gone["error"]


def test_a_scheme_whose_package_is_missing_names_the_line(predict: Predict, tmp_path: Path, monkeypatch):
    def missing(location: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", missing)
    with pytest.raises(MissingExtraError, match=r"pip install 'edgecls\[scale\]'"):
        predict(tmp_path / "out", "s3://bucket/images/")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    pytest.importorskip("s3fs")
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        store = fsspec.filesystem("s3", skip_instance_cache=True)
        store.mkdir("bucket")
        yield "s3://bucket"
    server.stop()


def test_images_and_archives_of_a_bucket_become_parts_in_it(
    predict: Predict, bucket: str, photos: Path, paths: list[Path], tmp_path: Path
):
    store = fsspec.filesystem("s3")
    store.pipe({f"bucket/in/{path.parent.name}/{path.name}": path.read_bytes() for path in paths[:12]})
    tar = write_tar(tmp_path / "rest.tar", [(path.name, path.read_bytes()) for path in paths[12:]])
    store.put_file(str(tar), "bucket/in/rest.tar")
    summary = predict(f"{bucket}/out", f"{bucket}/in/", top=1)
    assert (summary.total.images, summary.total.unreadable) == (24, 0)
    assert predict(f"{bucket}/out", f"{bucket}/in/").answered == 0
    predict(tmp_path / "local", photos)
    (tmp_path / "s3").mkdir()
    for part in store.glob("bucket/out/part-*"):
        (tmp_path / "s3" / Path(part).name).write_bytes(store.cat_file(part))
    assert answers_of(tmp_path / "s3") == answers_of(tmp_path / "local")
    assert json.loads(store.cat_file("bucket/out/_SUCCESS")) == {"images": 24, "unreadable": 0}


def test_a_bucket_that_is_not_there_is_one_line(predict: Predict, bucket: str, photos: Path, tmp_path: Path):
    with pytest.raises(DataError, match="there is no image or folder s3://gone/x"):
        predict(tmp_path / "out", "s3://gone/x/", patience_s=300.0)
    with pytest.raises(OutputError, match="s3://gone/answers"):
        predict("s3://gone/answers", photos, patience_s=300.0)
