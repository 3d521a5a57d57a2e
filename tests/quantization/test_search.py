"""Climbing: which candidates are tried, and which one is kept."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edgecls.artifact.card import Card, Quality
from edgecls.errors import DataError, VerificationError
from edgecls.imaging.preprocess import Preprocess
from edgecls.quantization.recipe import RecipeCandidate, parse
from edgecls.quantization.search import AcceptanceCriteria, Attempt, accurate_enough, best, search, skipped
from edgecls.runtime.store import Artifact

CANDIDATES = parse(
    """
quantizer = "onnxruntime"
activations = "uint8"
symmetric = false
[[candidate]]
name = "cheap"
[[candidate]]
name = "other placement"
alternative = true
activations = "int8"
[[candidate]]
name = "better ranges"
estimator = "percentile"
[[candidate]]
name = "float layers"
float_share = 0.1
[[candidate]]
name = "fine-tuned"
fine_tune_epochs = 1
""",
    "test",
)


def outcome(folder: Path, drop: float, gain: float | None, size: int = 100, agreement: float | None = None):
    """An attempt with these figures; the bundle is a file of that size."""
    path = folder / f"{drop}-{gain}-{size}"
    agreed = 1 - drop / 100 if agreement is None else agreement
    path.mkdir(exist_ok=True)
    (path / "model").write_bytes(b"x" * size)
    quality = Quality(
        images=1000, agreement=agreed, drop_points=drop, drop_low_points=drop - 0.3, drop_high_points=drop + 0.3,
        gain=gain,
    ).with_verdict()  # fmt: skip
    card = Card("a", ("b", "c"), Preprocess(8, 8), target="onnx", quality=quality)
    return lambda candidate: Attempt(candidate, 0.0, Artifact(path, Card(**{**vars(card), "lineage": lineage()})))


def lineage():
    from edgecls.artifact.card import Lineage

    return Lineage(files={"model": ""})


def names(attempts: list[Attempt]) -> list[str]:
    return [attempt.candidate.name for attempt in attempts]


def searched(figures: dict[str, Attempt], aim: AcceptanceCriteria) -> list[Attempt]:
    return search(CANDIDATES, lambda candidate: figures[candidate.name](candidate), aim)


def test_the_first_rung_that_is_accurate_and_fast_ends_the_ladder_after_its_alternatives(tmp_path: Path):
    good, faster = outcome(tmp_path, 0.5, 1.5), outcome(tmp_path, 0.6, 2.0)
    attempts = searched({"cheap": good, "other placement": faster}, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement"]
    assert best(attempts, AcceptanceCriteria(1.0)).candidate.name == "other placement"


def test_a_faster_kind_gets_a_second_chance_though_a_slower_one_will_do(tmp_path: Path):
    fast, will_do = outcome(tmp_path, 3.0, 2.0), outcome(tmp_path, 0.5, 1.3)
    refined = outcome(tmp_path, 0.6, 1.9)
    aim = AcceptanceCriteria(1.0)
    attempts = searched({"cheap": fast, "other placement": will_do, "better ranges": refined}, aim)
    assert names(attempts) == ["cheap", "other placement", "better ranges"]
    assert best(accurate_enough(attempts, aim), aim).candidate.name == "better ranges"
    attempts = searched({"cheap": fast, "other placement": will_do, "better ranges": fast}, aim)
    assert names(attempts) == ["cheap", "other placement", "better ranges"]  # one chance
    as_fast = outcome(tmp_path, 3.0, 1.32)
    assert names(searched({"cheap": as_fast, "other placement": will_do}, aim)) == ["cheap", "other placement"]


def test_inaccurate_candidates_lead_to_later_ones(tmp_path: Path):
    bad = outcome(tmp_path, 3.0, 2.0)
    figures = {"cheap": bad, "other placement": bad, "better ranges": bad, "float layers": outcome(tmp_path, 0.9, 1.4)}
    attempts = searched(figures, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement", "better ranges", "float layers"]
    assert (
        best(accurate_enough(attempts, AcceptanceCriteria(1.0)), AcceptanceCriteria(1.0)).candidate.name
        == "float layers"
    )


def test_a_slow_placement_is_not_refined_but_another_placement_is_tried(tmp_path: Path):
    slow = outcome(tmp_path, 0.1, 0.6)
    figures = {"cheap": slow, "other placement": outcome(tmp_path, 0.2, 0.7), "float layers": slow}
    attempts = searched(figures, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement", "better ranges", "float layers"]
    assert [tried.left_out for tried in attempts] == [False, False, True, False]  # layers in float change the speed
    assert attempts[2].reason == "it computes like 'cheap', which is not faster than FP32 on this machine"
    accurate = accurate_enough(attempts, AcceptanceCriteria(1.0))
    assert best(accurate, AcceptanceCriteria(1.0)).quality.recommended is False


def test_a_slow_placement_is_not_refined_though_it_is_inaccurate(tmp_path: Path):
    slow = outcome(tmp_path, 4.0, 0.6)
    figures = {"cheap": slow, "other placement": outcome(tmp_path, 0.2, 1.5)}
    attempts = searched(figures, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement"]
    figures = {**figures, "other placement": slow, "float layers": outcome(tmp_path, 0.9, 1.4)}
    attempts = searched(figures, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement", "better ranges", "float layers"]
    assert [tried.left_out for tried in attempts] == [False, False, True, False]
    for strategy in ("smallest", "most-accurate"):
        everything = {candidate.name: slow for candidate in CANDIDATES}
        assert not any(tried.left_out for tried in searched(everything, AcceptanceCriteria(1.0, strategy)))


def test_where_nothing_is_accurate_what_is_slow_is_tried_after_all_until_something_is(tmp_path: Path):
    aim, calls = AcceptanceCriteria(1.0), []
    slow = outcome(tmp_path, 4.0, 0.6)
    figures = {**dict.fromkeys(("cheap", "other placement", "float layers", "fine-tuned"), slow)}
    figures["better ranges"] = outcome(tmp_path, 0.5, 0.6)

    def attempt(candidate: RecipeCandidate) -> Attempt:
        calls.append(candidate.name)
        return figures[candidate.name](candidate)

    attempts = search(CANDIDATES, attempt, aim)
    assert calls == ["cheap", "other placement", "float layers", "better ranges"]
    assert names(attempts) == [candidate.name for candidate in CANDIDATES]
    assert [tried.left_out for tried in attempts] == [False, False, False, False, True]
    kept = best(accurate_enough(attempts, aim), aim)
    assert (kept.candidate.name, kept.quality.recommended) == ("better ranges", False)


def test_where_nothing_at_all_is_accurate_the_refusal_says_what_was_left_out(tmp_path: Path):
    slow, aim = outcome(tmp_path, 4.0, 0.6), AcceptanceCriteria(1.0)
    attempts = searched({candidate.name: slow for candidate in CANDIDATES}, aim)
    assert [tried.candidate.name for tried in attempts if tried.left_out] == ["fine-tuned"]
    expected = "4 recipes were tried and what computes like them was left out.* `strategy` to most-accurate or smallest"
    with pytest.raises(VerificationError, match=expected):
        accurate_enough(attempts, aim)


def test_a_first_candidate_that_is_inaccurate_and_nearly_fast_leaves_out_no_other(tmp_path: Path):
    nearly, aim = outcome(tmp_path, 3.0, 1.02), AcceptanceCriteria(1.0)
    figures = {"cheap": nearly, "other placement": nearly, "better ranges": outcome(tmp_path, 0.2, 1.06)}
    attempts = searched(figures, aim)
    assert [(tried.candidate.name, tried.left_out) for tried in attempts] == [(name, False) for name in figures]
    assert best(accurate_enough(attempts, aim), aim).candidate.name == "better ranges"


def test_where_nothing_can_be_timed_accuracy_decides(tmp_path: Path):
    untimed = outcome(tmp_path, 0.5, None)
    assert names(searched({"cheap": untimed, "other placement": untimed}, AcceptanceCriteria(1.0))) == [
        "cheap",
        "other placement",
    ]


def test_most_accurate_tries_all_but_fine_tuning(tmp_path: Path):
    figures = {
        "cheap": outcome(tmp_path, 0.5, 2.0),
        "other placement": outcome(tmp_path, 0.4, 1.9),
        "better ranges": outcome(tmp_path, 0.1, 1.8),
        "float layers": outcome(tmp_path, 0.0, 0.9),
    }
    aim = AcceptanceCriteria(1.0, "most-accurate")
    attempts = searched(figures, aim)
    assert names(attempts) == list(figures)
    assert best(attempts, aim).candidate.name == "better ranges"  # the only more accurate one is slower than float32


def test_smallest_keeps_the_smallest_even_where_it_is_slow(tmp_path: Path):
    aim = AcceptanceCriteria(1.0, "smallest")
    figures = {"cheap": outcome(tmp_path, 0.5, 0.7, size=50), "other placement": outcome(tmp_path, 0.4, 0.9, size=40)}
    assert best(searched(figures, aim), aim).candidate.name == "other placement"


def test_one_image_of_a_small_split_is_no_reason_to_refuse():
    assert AcceptanceCriteria(1.0).accurate(Quality(images=40, drop_points=2.5))
    assert not AcceptanceCriteria(1.0).accurate(Quality(images=40, drop_points=5.0))
    assert AcceptanceCriteria(0.0).accurate(Quality(images=40, drop_points=-2.5))


def test_without_labels_every_changed_answer_counts():
    assert AcceptanceCriteria(1.0).accurate(Quality(images=1000, agreement=0.995))
    assert not AcceptanceCriteria(1.0).accurate(Quality(images=1000, agreement=0.98))


def test_nothing_accurate_is_an_error_with_the_nearest_figures(tmp_path: Path):
    figures = {candidate.name: outcome(tmp_path, 5.0, 2.0) for candidate in CANDIDATES}
    figures["better ranges"] = outcome(tmp_path, 2.0, 2.0)
    with pytest.raises(
        VerificationError,
        match=r"loses 2.00 points of top-1 at best \(better ranges: .* 1.70 to 2.30, 98.00%",
    ):
        accurate_enough(searched(figures, AcceptanceCriteria(1.0)), AcceptanceCriteria(1.0))


def test_a_rung_that_cannot_be_tried_says_why_and_the_next_one_is():
    def attempt(candidate):
        return skipped(candidate, 1.0, DataError("the images are gone"))

    attempts = search(CANDIDATES[:2], attempt, AcceptanceCriteria(1.0))
    assert [tried.reason for tried in attempts] == ["the images are gone"] * 2
    with pytest.raises(VerificationError, match=r"no recipe could be applied .*the images are gone"):
        accurate_enough(attempts, AcceptanceCriteria(1.0))


def test_many_changed_answers_lead_further_up_though_the_drop_is_allowed(tmp_path: Path):
    """Ten answers in a hundred changed and the drop is small by luck: on few images that says little."""
    lucky, better = outcome(tmp_path, 0.5, 1.5, agreement=0.9), outcome(tmp_path, 0.9, 1.4, agreement=0.97)
    attempts = searched({"cheap": lucky, "other placement": lucky, "better ranges": better}, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement", "better ranges"]
    assert best(attempts, AcceptanceCriteria(1.0)).candidate.name == "better ranges"
    attempts = searched({candidate.name: lucky for candidate in CANDIDATES}, AcceptanceCriteria(1.0))
    assert names(attempts) == ["cheap", "other placement", "better ranges", "float layers"]  # and no fine-tuning
    assert (
        best(attempts, AcceptanceCriteria(1.0)).quality.agreement == 0.9
    )  # allowed all the same, for nothing better was found


def test_candidates_that_could_not_be_tried_do_not_count_as_accurate(tmp_path: Path):
    def nothing(candidate):
        return skipped(candidate, 0.0, DataError("no"))

    figures = dict.fromkeys(("cheap", "other placement", "better ranges", "float layers"), nothing)
    attempts = searched({**figures, "fine-tuned": outcome(tmp_path, 0.5, 1.5)}, AcceptanceCriteria(1.0))
    assert names(attempts)[-1] == "fine-tuned"
    assert names(accurate_enough(attempts, AcceptanceCriteria(1.0))) == ["fine-tuned"]


class TestUndecided:
    """A drop of a few images among some hundred is no evidence."""

    FOUR_OF_300 = Quality(
        images=300, agreement=0.98, drop_points=4 / 3, drop_low_points=0.1, drop_high_points=3.2
    )  # fmt: skip
    AIM = AcceptanceCriteria(1.0)

    def test_a_drop_that_may_be_luck_is_neither_accurate_nor_refused(self):
        assert not self.AIM.accurate(self.FOUR_OF_300)
        assert self.AIM.undecided(self.FOUR_OF_300)
        assert not self.AIM.undecided(replace(self.FOUR_OF_300, drop_low_points=1.1))
        assert not self.AIM.undecided(replace(self.FOUR_OF_300, agreement=0.94))
        assert not self.AIM.undecided(replace(self.FOUR_OF_300, drop_points=0.9))
        assert not self.AIM.undecided(Quality())

    def test_without_labels_the_interval_is_that_of_the_agreement(self):
        assert self.AIM.undecided(Quality(images=300, agreement=0.98))
        assert not self.AIM.undecided(Quality(images=30_000, agreement=0.98))

    def test_a_card_without_an_interval_is_judged_by_its_drop(self):
        old = replace(self.FOUR_OF_300, drop_low_points=None, drop_high_points=None)
        assert not self.AIM.undecided(old)
        assert not self.AIM.accurate(old)

    def test_it_is_kept_with_a_note_where_nothing_better_is_found(self, tmp_path: Path):
        figures = {each.name: outcome(tmp_path, 5.0, 2.0) for each in CANDIDATES}
        figures["cheap"] = outcome(tmp_path, 1.25, 1.8)
        figures["float layers"] = outcome(tmp_path, 1.2, 1.2)
        attempts = searched(figures, self.AIM)
        assert names(attempts) == [candidate.name for candidate in CANDIDATES]
        kept = best(accurate_enough(attempts, self.AIM), self.AIM)
        assert kept.candidate.name == "float layers"
        assert self.AIM.note(kept.quality) == (
            "whether top-1 drops by more than the allowed 1 points is not decided: it drops by 1.20 points "
            "(95 %: 0.90 to 1.50) on 1000 images; to decide it takes at least 2,300 labelled images"
        )
        assert (self.AIM.note(Quality(images=300, agreement=0.98)) or "").endswith("takes at least 350 images")

    def test_an_accurate_one_is_preferred_and_needs_no_note(self, tmp_path: Path):
        figures = {each.name: outcome(tmp_path, 1.1, 2.0) for each in CANDIDATES}
        figures["better ranges"] = outcome(tmp_path, 0.9, 1.2)
        kept = best(accurate_enough(searched(figures, self.AIM), self.AIM), self.AIM)
        assert kept.candidate.name == "better ranges"
        assert self.AIM.note(kept.quality) is None

    def test_what_no_more_images_can_save_cannot_pass(self):
        bad = Quality(images=100, agreement=0.8, drop_points=12.0, drop_low_points=5.0, drop_high_points=19.0)
        assert self.AIM.cannot_pass(bad)
        assert not self.AIM.cannot_pass(replace(bad, agreement=0.93))
        assert not self.AIM.cannot_pass(replace(bad, drop_low_points=0.5))
        assert not AcceptanceCriteria(6.0).cannot_pass(bad)
