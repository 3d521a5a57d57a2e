import numpy as np
import pytest

from edgecls.adapting.head import NEW_SHARE, Head, fit_head, importance_of


def clusters(generator: np.random.Generator, centres: np.ndarray, each: int) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(len(centres)), each)
    return (centres[labels] + generator.normal(0, 1, (len(labels), centres.shape[1]))).astype(np.float32), labels


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def untrained(classes: int, width: int) -> Head:
    return Head(np.zeros((classes, width), np.float32), np.zeros(classes, np.float32))


def test_it_finds_what_scikit_learn_finds(generator: np.random.Generator) -> None:
    from sklearn.linear_model import LogisticRegression

    embeddings, labels = clusters(generator, generator.normal(0, 1, (4, 12)), 60)
    scale = float(np.sqrt(np.square(embeddings).sum(axis=1).mean()))
    theirs = LogisticRegression(C=1 / (0.001 * len(labels)), max_iter=5000, tol=1e-8).fit(embeddings / scale, labels)
    ours = fit_head(untrained(4, 12), embeddings, labels, pull=0.24)
    agreed = (ours.scores(embeddings).argmax(axis=1) == theirs.predict(embeddings / scale)).mean()
    assert agreed > 0.98  # theirs smooths no labels and does not hold the bias


def test_without_new_images_a_good_layer_stays_where_it_is(generator: np.random.Generator) -> None:
    embeddings, labels = clusters(generator, 3 * np.eye(3, 8), 50)
    first = fit_head(untrained(3, 8), embeddings, labels)
    again = fit_head(first, embeddings, labels)
    assert np.abs(again.scores(embeddings) - first.scores(embeddings)).mean() < 0.2


def test_the_harder_it_is_held_the_less_it_moves(generator: np.random.Generator) -> None:
    embeddings, labels = clusters(generator, generator.normal(0, 1, (3, 8)), 50)
    start = untrained(3, 8)
    moved = [np.abs(fit_head(start, embeddings, labels, pull=pull).weight).max() for pull in (0.01, 1.0, 100.0)]
    assert moved[0] > moved[1] > moved[2]


def test_a_new_class_begins_as_the_mean_of_the_others_and_old_ones_keep_their_rows(
    generator: np.random.Generator,
) -> None:
    weight, bias = generator.normal(size=(3, 5)).astype(np.float32), np.arange(3, dtype=np.float32)
    grown = Head(weight, bias).for_classes([2, 0, None])
    assert np.array_equal(grown.weight[:2], weight[[2, 0]])
    assert np.array_equal(grown.bias[:2], bias[[2, 0]])
    assert grown.weight[2] == pytest.approx(weight.mean(axis=0))


def test_a_class_without_an_image_keeps_its_weights_and_its_images(generator: np.random.Generator) -> None:
    centres = 3 * np.eye(3, 5)
    embeddings = np.repeat(centres, 40, axis=0) + generator.normal(size=(120, 5))
    labels = np.repeat([0, 1, 2], 40)
    start = Head(np.eye(3, 5, dtype=np.float32), np.zeros(3, np.float32))
    before = (start.scores(embeddings)[80:].argmax(axis=1) == 2).mean()
    moved = embeddings[:80] + np.array([0, 0, 2, 0, 0])  # what is new looks like the class without images
    fitted = fit_head(start, moved.astype(np.float32), labels[:80])
    assert fitted.weight[2] == pytest.approx(start.weight[2], abs=1e-6)
    assert fitted.bias[2] == pytest.approx(0, abs=1e-6)
    assert np.abs(fitted.weight[:2] - start.weight[:2]).max() > 0.01
    assert (fitted.scores(embeddings)[80:].argmax(axis=1) == 2).mean() >= before - 0.05


def test_a_new_class_is_learned_where_others_have_no_images(generator: np.random.Generator) -> None:
    embeddings = (3 * np.eye(3, 5)[[2] * 40] + generator.normal(size=(40, 5))).astype(np.float32)
    start = Head(np.eye(2, 5, dtype=np.float32), np.zeros(2, np.float32)).for_classes([0, 1, None])
    fitted = fit_head(start, embeddings, np.full(40, 2), free=np.array([False, False, True]))
    assert (fitted.scores(embeddings).argmax(axis=1) == 2).mean() > 0.95
    assert fitted.weight[:2] == pytest.approx(start.weight[:2], abs=1e-6)


def test_few_new_images_weigh_a_quarter_together() -> None:
    importance = importance_of(np.zeros(110, int), np.arange(110) >= 100)
    assert importance[100:].sum() / importance.sum() == pytest.approx(NEW_SHARE)
    assert len(set(importance[:100])) == 1


def test_many_new_images_weigh_as_much_as_old_ones() -> None:
    assert set(importance_of(np.zeros(150, int), np.arange(150) >= 50)) == {1.0}


def test_balanced_classes_weigh_the_same() -> None:
    labels = np.repeat([0, 1], [90, 10])
    importance = importance_of(labels, np.zeros(100, bool), balanced=True)
    assert importance[labels == 0].sum() == pytest.approx(importance[labels == 1].sum())
