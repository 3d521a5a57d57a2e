"""How answers become a steady decision, and decisions become events."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from edgecls.artifact.card import Confidence
from edgecls.errors import UsageError
from edgecls.runtime.classifier import Prediction
from edgecls.streaming.config import EACH_FRAME, Smoothing
from edgecls.streaming.decision import Decision, EventLog, Smoother

CLASSES = ("cat", "dog", "fox")


def sure_of(name: str, score: float = 0.9) -> np.ndarray:
    probabilities = np.full(len(CLASSES), (1 - score) / (len(CLASSES) - 1), np.float32)
    probabilities[CLASSES.index(name)] = score
    return probabilities


def labels(smoothing: Smoothing, seen: list[np.ndarray], threshold: float = 0.0, fps: float = 10.0) -> list[str]:
    smoother = Smoother(smoothing, CLASSES, Confidence(threshold=threshold))
    return [smoother.decide(probabilities, index / fps)[0] for index, probabilities in enumerate(seen)]


def test_without_smoothing_each_frame_speaks_for_itself():
    seen = [sure_of("cat"), sure_of("dog"), sure_of("cat", 0.4)]
    assert labels(EACH_FRAME, seen) == ["cat", "dog", "cat"]
    assert labels(EACH_FRAME, seen, threshold=0.5) == ["cat", "dog", "unsure"]


def test_a_single_other_frame_changes_nothing():
    seen = [sure_of("cat")] * 10 + [sure_of("dog")] + [sure_of("cat")] * 10
    assert set(labels(Smoothing(), seen)) == {"cat"}


def test_another_class_takes_over_after_the_average_and_the_dwell():
    """0.5 s of averaging and 0.3 s of dwelling: within a second, but not at once."""
    found = labels(Smoothing(), [sure_of("cat")] * 10 + [sure_of("dog")] * 20)
    changed = found.index("dog")
    assert 13 <= changed <= 20
    assert set(found[changed:]) == {"dog"}


def test_the_dwell_begins_anew_when_the_lead_is_lost():
    smoothing = Smoothing(smooth_s=0.0, hysteresis=0.0, dwell_s=0.3)
    assert set(labels(smoothing, [sure_of("cat"), sure_of("dog"), sure_of("dog")] * 5)) == {"cat"}
    assert labels(smoothing, [sure_of("cat")] + [sure_of("dog")] * 4)[-1] == "dog"


def test_a_small_lead_is_not_enough():
    close = np.array([0.46, 0.5, 0.04], np.float32)
    smoothing = Smoothing(smooth_s=0.0, hysteresis=0.1, dwell_s=0.0)
    assert labels(smoothing, [sure_of("cat"), close, close]) == ["cat", "cat", "cat"]
    assert labels(smoothing, [sure_of("cat"), sure_of("dog", 0.6)]) == ["cat", "dog"]


def test_confidence_around_the_threshold_does_not_flicker():
    smoothing = Smoothing(smooth_s=0.0, hysteresis=0.1, dwell_s=0.0, min_confidence=0.7)
    seen = [sure_of("cat", score) for score in (0.72, 0.66, 0.71, 0.64, 0.55, 0.65, 0.75)]
    assert labels(smoothing, seen) == ["cat", "cat", "cat", "cat", "unsure", "unsure", "cat"]


def test_the_score_of_a_label_that_is_no_class_is_the_nearest_ones():
    smoother = Smoother(Smoothing(smooth_s=0.0, dwell_s=0.0, min_confidence=0.5), CLASSES, Confidence())
    assert smoother.decide(sure_of("dog", 0.9), 0.0, unknown=True) == ("unknown", pytest.approx(0.9))
    assert smoother.nearest == "dog"
    assert smoother.decide(sure_of("cat", 0.4), 1.0)[0] == "unsure"
    assert smoother.nearest == "cat"
    assert smoother.decide(sure_of("cat", 0.9), 2.0)[0] == "cat"
    assert smoother.nearest is None


def test_a_label_that_is_no_class_is_shown_with_the_nearest_one():
    assert decision("cat", 0.9).text == "cat  90%"
    refused = replace(decision("unknown", 0.9), nearest="cat", unknown=True)
    assert refused.text == "unknown (nearest cat 90%)"
    _, begun = EventLog("door", "2026-01-01T00:00:00").take(refused, 0, 0.0, "t0")
    assert begun is not None
    assert begun.to_json()["nearest"] == "cat"


@pytest.mark.parametrize("least", [None, 0.5])
def test_a_class_may_need_more_confidence_than_others(least: float | None):
    smoothing = Smoothing(smooth_s=0.0, hysteresis=0.0, dwell_s=0.0, min_confidence=least)
    smoother = Smoother(smoothing, CLASSES, Confidence(threshold=0.5, thresholds={"dog": 0.8, "fox": 0.0}))
    seen = [("cat", 0.6), ("dog", 0.6), ("dog", 0.8), ("fox", 0.4), ("dog", 0.9)]
    found = [smoother.decide(sure_of(*each), index)[0] for index, each in enumerate(seen)]
    assert found == (["cat", "dog", "dog", "unsure", "dog"] if least else ["cat", "unsure", "dog", "fox", "dog"])


def test_the_majority_of_the_latest_frames_decides():
    smoothing = Smoothing(majority=5, hysteresis=0.0, dwell_s=0.0)
    seen = [sure_of(name) for name in ("cat", "cat", "cat", "dog", "dog", "dog")]
    smoother = Smoother(smoothing, CLASSES, Confidence())
    found = [smoother.decide(probabilities, index / 10) for index, probabilities in enumerate(seen)]
    assert [label for label, _ in found] == ["cat", "cat", "cat", "cat", "cat", "dog"]
    assert found[-1][1] == pytest.approx(0.6)


def test_smoothing_is_a_matter_of_seconds_not_of_frames():
    """A class that comes up after a second is decided about at the same time at 5 and at 50 frames a second."""
    moments = []
    for fps in (5, 50):
        seen = [sure_of("cat")] * fps + [sure_of("dog")] * 2 * fps
        moments.append(labels(Smoothing(dwell_s=0.0), seen, fps=fps).index("dog") / fps)
    assert moments[0] == pytest.approx(moments[1], abs=0.25)


def test_after_an_outage_the_past_is_forgotten():
    smoother = Smoother(Smoothing(smooth_s=60.0), CLASSES, Confidence())
    for index in range(50):
        smoother.decide(sure_of("cat"), index / 10)
    smoother.reset()
    assert smoother.decide(sure_of("dog"), 6.0)[0] == "dog"


@pytest.mark.parametrize(
    ("smoothing", "words"),
    [
        (Smoothing(smooth_s=-1), "`smooth_s`"),
        (Smoothing(majority=0), "`majority`"),
        (Smoothing(hysteresis=1.0), "`hysteresis`"),
        (Smoothing(min_confidence=1.5), "`min_confidence`"),
    ],
)
def test_what_makes_no_sense_is_refused(smoothing: Smoothing, words: str):
    with pytest.raises(UsageError, match=words):
        smoothing.check()


def decision(label: str, score: float) -> Decision:
    prediction = Prediction(label, score, 0, CLASSES, sure_of("cat", score))
    return Decision("door", prediction, label, score, 1.0, 2.0, 10.0, 1, 0)


def test_an_event_lasts_from_one_change_to_the_next():
    log = EventLog("door", "2026-01-01T00:00:00")
    nothing, begun = log.take(decision("cat", 0.8), 0, 0.0, "t0")
    assert nothing is None
    assert (begun.label, begun.started, begun.ended) == ("cat", "t0", None)
    assert log.take(decision("cat", 0.9), 1, 0.1, "t1") == (None, None)
    ended, begun = log.take(decision("dog", 0.6), 2, 0.2, "t2")
    assert (ended.id, ended.frames, ended.first_frame, ended.last_frame) == ("door-20260101T000000-1", 2, 0, 1)
    assert ended.score == pytest.approx(0.85)
    assert (ended.end_s, ended.ended) == (0.1, "t2")
    assert begun.id == "door-20260101T000000-2"
    assert log.end("t3").ended == "t3"
    assert log.end("t4") is None
