from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import MISSING, FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edgecls
from edgecls import errors
from edgecls.artifact.golden import Golden
from edgecls.errors import ImageError, UsageError
from edgecls.imaging.opencv import cv2
from edgecls.runtime.scores import softmax
from edgecls.runtime.store import Artifact
from edgecls.settings import Config, settings_of

VERBS = {
    "train": edgecls.TrainConfig, "tune": edgecls.TuneConfig, "shrink": edgecls.ShrinkConfig,
    "import_model": edgecls.ImportConfig,
    "export": edgecls.ExportConfig, "evaluate": edgecls.EvaluateConfig, "compare": edgecls.CompareConfig,
    "benchmark": edgecls.BenchmarkConfig, "stream": edgecls.StreamConfig,
    "retrain": edgecls.RetrainConfig, "adapt": edgecls.AdaptConfig, "serve": edgecls.ServeConfig,
}  # fmt: skip


@pytest.fixture
def model(bundle: Callable[[str, str], Artifact]):
    with edgecls.load(bundle("onnx", "fp32").path) as model:
        yield model


def bgr(artifact_place: Path, index: int) -> np.ndarray:
    return cv2.cvtColor(Golden.read(artifact_place).images[index], cv2.COLOR_RGB2BGR)


def test_the_public_names_are_exactly_these():
    raised = {name for name, each in vars(errors).items() if isinstance(each, type)}
    configs = {
        "CameraOptions",
        "CaptureFormat",
        "Constraints",
        "Geometry",
        "ReconnectPolicy",
        "SinkConfig",
        "Smoothing",
    }
    values = {"Artifact", "Card", "Classifier", "Prediction", "Preprocess", "Region", "Smoothing", "__version__"}
    values |= {"ExportOutcome", "Retrained", "Adapted", "Verdict"}
    verbs = {*VERBS, "export_all", "load", "resume", "verify"}
    assert set(edgecls.__all__) == values | configs | verbs | raised | {each.__name__ for each in VERBS.values()}
    assert all(hasattr(edgecls, name) for name in edgecls.__all__)
    assert set(edgecls.__all__) <= set(dir(edgecls))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        edgecls.nothing  # noqa: B018


def test_an_image_is_classified_with_typed_results(model: edgecls.Classifier, tmp_path: Path):
    prediction = model.predict(bgr(model.path, 7))
    assert prediction.label == "seven"
    assert prediction.index == 7
    assert 0.3 < prediction.score <= 1
    assert prediction.top(2)[0] == ("seven", prediction.score)
    assert sum(score for _, score in prediction.ranking) == pytest.approx(1, abs=1e-5)
    cv2.imwrite(str(tmp_path / "seven.png"), bgr(model.path, 7))
    assert model.predict(tmp_path / "seven.png").label == model.predict(str(tmp_path / "seven.png")).label == "seven"


def test_an_image_comes_in_any_form(model: edgecls.Classifier, tmp_path: Path):
    pixels = bgr(model.path, 7)
    content = cv2.imencode(".png", pixels)[1].tobytes()
    (tmp_path / "seven.png").write_bytes(content)
    expected = model.predict(pixels)
    forms = (
        tmp_path / "seven.png", content, bytearray(content), memoryview(content), Image.fromarray(pixels[..., ::-1]),
        Image.open(tmp_path / "seven.png").convert("P", palette=Image.Palette.ADAPTIVE),
    )  # fmt: skip
    for form in forms:
        assert model.predict(form).label == "seven"
    assert [each.score for each in model.predict([pixels, *forms[:5]])] == pytest.approx([expected.score] * 6)
    assert asyncio.run(model.apredict(content)) == expected


def test_an_arrays_colour_order_is_named(model: edgecls.Classifier):
    red = np.zeros((40, 40, 3), np.uint8)
    red[..., 2] = 255
    as_bgr, as_rgb = model.predict(red), model.predict(red[..., ::-1], colour_order="rgb")
    assert as_rgb == as_bgr
    assert model.predict([red[..., ::-1]], "rgb") == [as_bgr]
    opaque = np.dstack([red[..., ::-1], np.full((40, 40), 200, np.uint8)])
    assert model.predict(opaque, "rgb") == as_bgr
    for image in (red, "photo.jpg"):
        with pytest.raises(UsageError, match="colour_order is one of bgr, rgb, not 'hsv'"):
            model.predict(image, "hsv")


@pytest.mark.parametrize("one", [b"", bytearray(9), memoryview(b"9"), np.zeros((9, 9, 3), np.uint8), "photo.jpg"])
def test_a_single_image_is_no_series(model: edgecls.Classifier, one: object):
    with pytest.raises(UsageError, match="give several images"):
        model.predict_many(one)


def test_a_photograph_of_pil_is_turned_upright_and_one_of_16_bits_refused(model: edgecls.Classifier, tmp_path: Path):
    lying = Image.fromarray(np.ascontiguousarray(np.rot90(bgr(model.path, 7)[..., ::-1], 1)))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees clockwise to be shown
    lying.save(tmp_path / "seven.png", exif=exif)
    assert model.predict(Image.open(tmp_path / "seven.png")).label == "seven"
    with pytest.raises(ImageError, match="mode I;16 is not of 8 bits"):
        model.predict(Image.fromarray(np.zeros((9, 9), np.uint16)))
    with pytest.raises(ImageError, match="the image is empty"):
        model.predict(b"")


def test_many_images_come_back_in_order(model: edgecls.Classifier):
    images = [bgr(model.path, index % 10) for index in range(23)]
    labels = [prediction.index for prediction in model.predict_many(iter(images))]
    assert labels == [model.predict(image).index for image in images]


def test_an_image_of_any_size_is_taken(model: edgecls.Classifier):
    large = cv2.resize(bgr(model.path, 3), (500, 500), interpolation=cv2.INTER_CUBIC)
    assert model.predict(large).label == "three"


def test_a_run_opens_as_its_best_bundle_and_itself_without_one(trained: Artifact, copy_of: Callable[[Artifact], Path]):
    with edgecls.load(copy_of(trained)) as model:
        assert model.card.target == "torch"
        assert model.predict(bgr(trained.path, 0)).label == "zero"


def test_bad_input_is_refused(model: edgecls.Classifier):
    with pytest.raises(ImageError, match="uint8 array"):
        model.predict(np.zeros((4, 4, 3)))
    with pytest.raises(ImageError, match="cannot read"):
        model.predict("gone.jpg")
    with pytest.raises(UsageError, match="threads"):
        edgecls.load(model.path, threads=0)


def test_softmax_does_not_overflow():
    assert softmax(np.array([1000.0, 1000.0], np.float32)).tolist() == [0.5, 0.5]


LOADED = [3, 1.5, b"x", [], object(), "x\0y", "~nosuchuser/x", "x" * 5000, "/dev/zero", "/dev/null", "", "nowhere"]


@pytest.mark.parametrize("path", LOADED, ids=lambda path: repr(path)[:20])
def test_what_is_no_model_is_one_clear_error(path: object):
    with pytest.raises(edgecls.EdgeclsError):
        edgecls.load(path)


@pytest.mark.parametrize("wrong", [0, -1, "2", 1.5, float("nan"), 10**30], ids=repr)
@pytest.mark.parametrize("name", ["threads", "streams"])
def test_threads_and_streams_are_whole_numbers_from_one_on(trained: Artifact, name: str, wrong: object):
    with pytest.raises(UsageError, match=f"`{name}` must be at least 1"):
        edgecls.load(trained.path, **{name: wrong})


@pytest.mark.parametrize("count", [0, -1, 1.5, "a", None], ids=repr)
def test_no_other_number_of_best_classes_is_told(model: edgecls.Classifier, count: object):
    with pytest.raises(UsageError, match="whole number from 1 on"):
        model.predict(np.zeros((8, 8, 3), np.uint8)).top(count)


@pytest.mark.parametrize("images", [None, 3, "photo.jpg", b"x"], ids=repr)
def test_one_image_is_not_many(model: edgecls.Classifier, images: object):
    with pytest.raises(UsageError, match="give several images"):
        model.predict_many(images)


class TestVerbs:
    @pytest.mark.parametrize(("verb", "config"), VERBS.items())
    def test_a_verb_takes_its_configuration_first(self, verb: str, config: type[Config]):
        first = next(iter(inspect.signature(getattr(edgecls, verb), eval_str=True).parameters.values()))
        assert first.name == "config"
        assert first.annotation in (config, config | None)

    @pytest.mark.parametrize("config", VERBS.values())
    def test_a_configuration_is_frozen_takes_keywords_and_explains_each_setting(self, config: type[Config]):
        settings = settings_of(config)
        assert all(setting.help for setting in settings)
        needed = {setting.name: "given" for setting in settings if setting.default is MISSING}
        made = config(**needed)
        with pytest.raises(FrozenInstanceError):
            made.seed = 1  # type: ignore[attr-defined]
        with pytest.raises(TypeError):
            config("given")  # type: ignore[call-arg]

    def test_paths_are_taken_as_text_and_text_as_paths(self, tmp_path: Path):
        config = edgecls.TrainConfig(out=str(tmp_path), data=tmp_path)  # type: ignore[arg-type]
        assert (config.out, config.data) == (tmp_path, str(tmp_path))

    @pytest.mark.parametrize(
        "call",
        [
            lambda: edgecls.train("photos"), lambda: edgecls.train(edgecls.ExportConfig()),
            lambda: edgecls.export("run"),
            lambda: edgecls.evaluate("run"), lambda: edgecls.compare("a"), lambda: edgecls.benchmark("run"),
            lambda: edgecls.shrink("run"),
            lambda: edgecls.tune("photos"), lambda: edgecls.import_model("file"), lambda: edgecls.stream("demo"),
            lambda: edgecls.verify(5), lambda: edgecls.verify(None), lambda: edgecls.resume(5),
        ],
    )  # fmt: skip
    def test_something_else_in_place_of_a_configuration_is_a_usage_error(self, call: Callable[[], object]):
        with pytest.raises(UsageError, match=r"this takes a \w+Config, not a |is named by its"):
            call()

    def test_an_error_names_the_field(self):
        with pytest.raises(UsageError, match="`epochs` takes a whole number of at least 1, not 0") as refused:
            edgecls.TrainConfig(epochs=0).check()
        assert refused.value.field == "epochs"
        assert UsageError("nothing in particular").field is None

    def test_from_photographs_to_a_stream(self, photos: Path, tmp_path: Path):
        run, metrics = edgecls.train(
            edgecls.TrainConfig(
                data=photos, arch="simple_cnn", weights="none", epochs=4, batch_size=8, size_px=32,
                deterministic=True, out=tmp_path / "run",
            )
        )  # fmt: skip
        bundle = edgecls.export(edgecls.ExportConfig(run=run))
        assert edgecls.verify(bundle).agreement == 1.0
        report = edgecls.evaluate(edgecls.EvaluateConfig(model=bundle.path))
        assert report.figures.metrics.top1 == metrics.top1
        same = edgecls.compare(edgecls.CompareConfig(first=run, second=bundle.path))
        assert same.agreement == 1.0
        measured = edgecls.benchmark(edgecls.BenchmarkConfig(models=(run,), rounds=2, seconds=0.05))
        assert measured.best.candidate.artifact.path == bundle.path
        seen = tmp_path / "seen.jsonl"
        summary = edgecls.stream(
            edgecls.StreamConfig(cameras=("demo",), model=bundle.path, frames=5, sinks=edgecls.SinkConfig(log=seen))
        )
        assert summary.decided == len(seen.read_text().splitlines()) == 5
