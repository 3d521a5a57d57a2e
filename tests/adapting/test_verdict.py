import numpy as np
import pytest

from edgecls.adapting.verdict import Verdict, scores_for
from edgecls.errors import VerificationError

LABELS = np.repeat([0, 1], 100)


def answers(right: np.ndarray, labels: np.ndarray = LABELS, classes: int = 2) -> np.ndarray:
    scores = np.zeros((len(labels), classes), np.float32)
    scores[np.arange(len(labels)), np.where(right, labels, (labels + 1) % classes)] = 1
    return scores


def right_but(wrong: list[int], count: int = 200) -> np.ndarray:
    return ~np.isin(np.arange(count), wrong)


def judged(before: np.ndarray, after: np.ndarray, is_new: np.ndarray | None = None) -> Verdict:
    new = np.arange(len(LABELS)) >= 150 if is_new is None else is_new
    return Verdict.of(answers(before), answers(after), LABELS, new, ["a", "b"])


def test_the_same_answers_are_equal() -> None:
    assert judged(right_but([0, 1]), right_but([0, 1])).word == "equal"


def test_a_proven_gain_without_a_loss_is_better() -> None:
    verdict = judged(right_but(list(range(180, 200))), right_but([]))
    assert verdict.word == "better"
    assert {change.name: change.word for change in verdict.groups} == {"old images": "equal", "new images": "better"}


def test_a_gain_on_new_images_does_not_make_up_for_a_loss_on_old_ones() -> None:
    verdict = judged(right_but(list(range(180, 200))), right_but(list(range(8))))
    assert verdict.word == "worse"
    with pytest.raises(VerificationError, match=r"worse than before on old images.*`accept_worse`"):
        verdict.require()


def test_a_class_that_is_lost_makes_it_worse_however_good_the_rest() -> None:
    labels = np.repeat([0, 1], [180, 20])
    before = answers(right_but(list(range(40))), labels)
    after = answers(right_but(list(range(180, 190))), labels)
    verdict = Verdict.of(before, after, labels, np.zeros(200, bool), ["common", "rare"])
    assert verdict.groups[0].word == "better"
    assert [change.name for change in verdict.worse] == ["rare"]


def test_one_image_lost_of_few_is_no_loss() -> None:
    assert judged(right_but([]), right_but([170])).word == "equal"


def test_a_new_class_is_judged_beside_the_new_images_of_known_ones() -> None:
    labels = np.repeat([0, 1, 2], 60)
    is_new = np.arange(180) % 2 == 0
    known = answers(np.ones(180, bool), labels, 3)
    before = scores_for(known[:, :2], [(0,), (1,), ()])
    after = known.copy()
    lost = np.flatnonzero(is_new & (labels == 0))[:12]
    after[lost] = [0, 0, 1]  # taken for the new class
    verdict = Verdict.of(before, after, labels, is_new, ["a", "b", "c"])
    words = {change.name: change.word for change in verdict.groups}
    assert words["new images"] == "better"
    assert words["new images of known classes"] == "worse"
    assert verdict.word == "worse"


def test_merged_classes_are_asked_as_one_and_new_ones_were_never_answered() -> None:
    scores = np.array([[1.0, 3.0, 2.0]], np.float32)
    assert scores_for(scores, [(0, 1), (2,), ()]).tolist() == [[3.0, 2.0, -np.inf]]


def test_it_can_be_read_back() -> None:
    verdict = judged(right_but([0]), right_but([199]))
    assert Verdict.from_json(verdict.to_json()) == verdict


@pytest.mark.parametrize("seed", range(5))
def test_chance_alone_is_seldom_worse(seed: int) -> None:
    generator = np.random.default_rng(seed)
    words = []
    for _ in range(40):
        before, after = (generator.random(200) < 0.95 for _ in range(2))
        words.append(judged(before, after).word)
    assert words.count("worse") <= 10


def of_many_classes(before: np.ndarray, after: np.ndarray, classes: int) -> Verdict:
    labels = np.repeat(np.arange(classes), len(before) // classes)
    old = np.zeros(len(labels), bool)
    names = [f"class {number}" for number in range(classes)]
    return Verdict.of(answers(before, labels, classes), answers(after, labels, classes), labels, old, names)


def test_of_many_classes_chance_makes_none_worse_but_a_real_loss_is_seen() -> None:
    generator = np.random.default_rng(0)
    seen = []
    for _ in range(40):
        before, after = (generator.random(4000) < 0.9 for _ in range(2))
        seen.append(len([c for c in of_many_classes(before, after, 100).classes if c.word == "worse"]))
        after[:40] = False
        assert "class 0" in {change.name for change in of_many_classes(before, after, 100).worse}
    assert np.mean([count > 0 for count in seen]) <= 0.1


def test_a_loss_that_one_class_alone_would_prove_is_told_with_the_same_interval_among_many() -> None:
    before = np.ones(2000, bool)
    after = ~np.isin(np.arange(2000), range(8))
    labels = np.zeros(20, np.int64)
    first, second = (answers(right[:20], labels) for right in (before, after))
    alone = Verdict.of(first, second, labels, np.zeros(20, bool), ["class 0", "without images"]).classes[0]
    among = of_many_classes(before, after, 100).classes[0]
    assert (alone.word, among.word) == ("worse", "equal")
    assert (alone.low_points, alone.high_points) == (among.low_points, among.high_points)
    assert among.high_points < 0
