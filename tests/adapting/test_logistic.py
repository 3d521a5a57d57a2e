import numpy as np
import pytest

from edgecls.adapting.logistic import fitted_weights, minimized


def test_the_least_of_a_convex_function_is_found() -> None:
    curvature, least = np.array([1.0, 100.0, 0.01]), np.array([3.0, -2.0, 50.0])

    def loss_and_slope(place: np.ndarray) -> tuple[float, np.ndarray]:
        return float((curvature * (place - least) ** 2).sum()) / 2, curvature * (place - least)

    assert minimized(loss_and_slope, np.zeros(3)) == pytest.approx(least, abs=2e-3)


def test_weights_are_those_that_scikit_learn_finds() -> None:
    from sklearn.linear_model import LogisticRegression

    generator = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 60)
    points = generator.normal(0, 1, (4, 6))[labels] + generator.normal(0, 1, (240, 6))
    theirs = LogisticRegression(C=1.0, max_iter=5000, tol=1e-10).fit(points, labels)
    held = np.full((4, 7), 1 / 240)
    held[:, -1] = 0  # theirs does not hold the biases
    ours = fitted_weights(points, np.eye(4)[labels], np.full(240, 1 / 240), np.zeros((4, 7)), held)
    assert ours[:, :-1] == pytest.approx(theirs.coef_, abs=5e-3)
