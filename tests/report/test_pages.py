"""What every HTML page keeps to: names stay text, whatever they hold."""

from __future__ import annotations

import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from jinja2 import nodes

from edgecls.artifact.card import Card
from edgecls.backends.base import Layer
from edgecls.benchmarking import suite
from edgecls.benchmarking.conditions import Conditions
from edgecls.benchmarking.config import BenchmarkConfig
from edgecls.data.check import Finding, Report
from edgecls.data.sources import Source
from edgecls.data.splits import Sample
from edgecls.errors import MissingExtraError
from edgecls.evaluation.detail import evaluate_scores
from edgecls.evaluation.evaluation import EvaluationReport
from edgecls.exporting.compare import Comparison, Flip, Side
from edgecls.imaging.preprocess import Preprocess
from edgecls.report import benchmark_page, compare_page, data_page, evaluation_page, page, tune_page
from edgecls.runtime.layers import LayerProfile
from edgecls.runtime.store import Artifact
from edgecls.tuning.search import Trial
from tests.benchmarking.test_suite import measured

HOSTILE = """<script>alert(1)</script>"><img src=x onerror='alert(1)'> {{ 7 * 7 }} {% raw %} {# &lt; --> & $\\frac$"""
LATIN_1 = "\udcff"
"""A byte of a file name that is not UTF-8, as Python reads it."""


class Grey(Source):
    """Every image is the same; the place and its name are as given."""

    def __init__(self, name: str):
        self.name = self.location = name

    def read(self, key: str) -> np.ndarray:
        return np.full((8, 8, 3), 128, np.uint8)

    def fingerprint(self, key: str) -> str:
        return key


def artifact(name: str, target: str = "onnx") -> Artifact:
    return Artifact(Path(name + LATIN_1), Card(name, (name, "other"), Preprocess(8, 8), target))


def write_benchmark(name: str, path: Path) -> None:
    parent, bundle = artifact(name, "torch"), artifact(name)
    results = [
        measured(parent, 2.0, f"parent {name}", top1=0.9),
        measured(bundle, 1.0, name, top1=0.9),
        suite.BenchmarkResult(suite.Candidate(bundle, f"untimed {name}", None, 4, 1), 1, reason=name),
    ]
    record = suite.record(results, BenchmarkConfig(), Conditions(name, 0.1, None))
    record |= {"created": name, "remarks": [name], "versions": {name: name}}
    record["machine"] |= {"cpu": name, "gpu": name, "instruction_sets": [name], "system": name, "python": name}
    record["rows"][0]["rounds"][0]["energy_of"] = name
    change = {"key": name, "before_ms": 1.0, "now_ms": 1.0, "slower": False}
    record["selection"] = {
        "recommended": name, "front": [name, f"parent {name}"], "constraints": name,
        "breakdown": [{"name": name, "steps_ms": {"decode": 1.0}}],
        "changes": [{**change, "slowdown": {"value": 0.0, "low": 0.0, "high": 0.0}}],
    }  # fmt: skip
    inside = LayerProfile([Layer(name, name, name)], {name: 1.0}, [], None)
    benchmark_page.write_page(record, path, (name, inside))


def write_comparison(name: str, path: Path) -> None:
    side = Side(name, name + LATIN_1, 1, None, 0.5, 0.1, (0.5, 1.0))
    flip = Flip(name + LATIN_1, name, name, 0.9, "other", 0.8)
    figures = (4, 0.75, (0.3, 0.95), 25.0, 10.0, 15.0, 35.0, 1.5)
    comparison = Comparison(side, side, (name, "other"), *figures, (flip,), ((name, 20.0),), None, Grey(name))
    compare_page.write_page(comparison, path)


def write_check(name: str, path: Path) -> None:
    group = ((name + LATIN_1, name, "train"),)
    found = Finding(name, name + LATIN_1, 2, True, (group,), (1,))
    data_page.write_page(Report(name, (name,), 1, {name: {"train": 1}}, (found,)), Grey(name + LATIN_1), path)


def write_evaluation(name: str, path: Path) -> None:
    scores, labels = np.eye(2, dtype=np.float32)[[0, 1, 1, 0]], np.array([0, 1, 0, 1])
    samples = [Sample(name + LATIN_1, int(label)) for label in labels]
    figures = evaluate_scores(scores, labels)
    evaluation_page.write_page(EvaluationReport(artifact(name), figures, Grey(name), samples, scores, labels), path)


def write_search(name: str, path: Path) -> None:
    trials = [
        Trial(0, {"arch": name, name: 0.1}, 0.5, "complete", 1.0, None),
        Trial(1, {"arch": name, name: 0.2}, 0.4, "pruned", None, name),
    ]
    tune_page.write_page(name, trials, {name: 1.0}, path)


class Parsed(HTMLParser):
    """The elements of a page with their attributes, those inside charts left out, and all of its text."""

    def __init__(self, page: str):
        super().__init__()
        self.elements, self.text, self.in_chart = [], "", False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag != "script"
        assert not [name for name, _ in attributes if name.startswith("on")]
        assert all(value.startswith("data:image/") for name, value in attributes if name == "src")
        self.in_chart |= tag == "svg"
        if not self.in_chart:
            self.elements.append((tag, [each for each in attributes if each[0] != "src"]))

    def handle_endtag(self, tag: str) -> None:
        self.in_chart &= tag != "svg"

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    "write", [write_benchmark, write_comparison, write_check, write_evaluation, write_search], ids=lambda f: f.__name__
)
def test_a_name_never_becomes_an_element_or_an_attribute(write: Callable[[str, Path], None], tmp_path: Path):
    write("plain", tmp_path / "plain.html")
    write(HOSTILE, tmp_path / "hostile.html")
    plain, hostile = (Parsed((tmp_path / f"{name}.html").read_text()) for name in ("plain", "hostile"))
    assert hostile.elements == plain.elements
    assert hostile.text.count(HOSTILE) == plain.text.count("plain") > 1


def test_no_template_turns_escaping_off():
    environment = page.environment()
    assert environment.autoescape is True
    assert len(environment.list_templates()) == 8
    for name in environment.list_templates():
        tree = environment.parse(environment.loader.get_source(environment, name)[0])
        assert not list(tree.find_all((nodes.EvalContextModifier, nodes.MarkSafe, nodes.MarkSafeIfAutoescape))), name
        assert "safe" not in {each.name for each in tree.find_all(nodes.Filter)}, name


def test_only_charts_are_taken_as_markup():
    files = Path(page.__file__).parent.glob("*.py")
    assert {file.name for file in files if "Markup(" in file.read_text()} == {"benchmark_figures.py"}


def test_without_jinja_a_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page.environment.cache_clear()
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(MissingExtraError, match=r"writing a page needs jinja2.*edgecls\[train\]"):
        write_check("plain", tmp_path / "page.html")
