"""What a review costs: keystrokes for a pool of images, and labels until a classifier is as good as by random choice.

    python benchmarks/loop/review.py PHOTOS [PHOTOS ...] --model MODEL [--images 1000] [--seeds 5] [--out FILE]

PHOTOS are labelled data sets. Their images become a pool without labels; a simulated labeller knows the true ones and
presses the keys of the page of `edgecls review`, on the queue that the page asks. Embeddings are those of MODEL, whose
own answers are not used: all that is suggested was learned during the review.

Keystrokes: that many images drawn at random are all labelled, in groups. Where most of a group is what is suggested,
the others get their next best guesses by their letters, and Enter takes all; where that takes more keystrokes, or
another class is most of the group, they are marked and labelled first, class by class, then the rest by one key. A
class beyond the tenth takes a slash, its number, and Enter.

Choice: two thirds of the images are the pool (at most 1,500) and one third the test. One image at a time is labelled,
as the queue chooses, which learns from every 5 labels, or at random. Every 20 labels a logistic regression
(scikit-learn, on embeddings of length 8) is fitted and tested. For N = 100 to 400: how many labels the queue's choice
takes to reach the mean top-1 that random choice has at N, as a share of N, interpolated.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

if TYPE_CHECKING:
    from numpy import float32, int64
    from numpy.typing import NDArray

    from edgecls.reviewing.queue import Queue, Shown

EVERY = 20
LEARNED_EVERY = 5
MOST = 400
POOL = 1500
REACHED = (100, 200, 300, 400)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--at-most", type=int, default=4000, help="images of a data set, drawn at random")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    from edgecls.runtime import machine

    results: dict[str, Any] = {}
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    for photos in given.photos:
        name, features, labels = embedded(photos, given.model, given.at_most)
        print(f"{machine.this_machine().cpu}, {name}: {len(labels)} images, {len(set(labels.tolist()))} classes")
        strokes = [keystrokes(features, labels, given.images, seed) for seed in seeds]
        for what in strokes[0]:
            values = [each[what] for each in strokes]
            print(f"  {what:28s} {sum(values) / len(values):.1f}  ({min(values):.1f} to {max(values):.1f})")
        chosen = choice(features, labels, seeds)
        for count, share in chosen["share"].items():
            print(f"  random's top-1 at {count:4d} labels ({chosen['random'][count]:.3f}): {share:.2f} of them")
        results[name] = {"images": len(labels), "seeds": [*seeds], "keystrokes": strokes, "choice": chosen}
    if given.out:
        result = {"machine": machine.this_machine().to_json(), "versions": machine.versions(), "data": results}
        given.out.write_text(json.dumps(result, indent=1) + "\n")


def embedded(photos: str, model: Path, at_most: int) -> tuple[str, NDArray[float32], NDArray[int64]]:
    """A data set's name, embeddings (N, D) and labels (N,)."""
    import numpy as np

    from edgecls.data.layout import index_dataset
    from edgecls.evaluation.embeddings import embeddings_on
    from edgecls.evaluation.inference import labels_of

    layout = index_dataset(photos)
    samples = [sample for members in layout.splits.values() for sample in members]
    drawn = np.random.default_rng(0).permutation(len(samples))[:at_most]
    samples = [samples[at] for at in sorted(drawn.tolist())]
    return layout.source.name, embeddings_on(model, layout.source, samples), labels_of(samples)


def queue_of(features: NDArray[float32], folder: str, size: int) -> Queue:
    """The queue of a pool of images with these embeddings."""
    from edgecls.reviewing.choosing import Alike
    from edgecls.reviewing.features import Features
    from edgecls.reviewing.items import Item
    from edgecls.reviewing.log import Log
    from edgecls.reviewing.queue import Queue

    items = [Item(f"{number}.jpg") for number in range(len(features))]
    choice = Alike(items)
    queue = Queue(items, Log(Path(folder) / "log.jsonl"), choice, size=size)
    choice.see(range(len(items)), [Features(each) for each in features], queue.lock)
    return queue


def keystrokes(features: NDArray[float32], labels: NDArray[int64], count: int, seed: int) -> dict[str, float]:
    """What it takes to label so many images, all of them correctly."""
    import numpy as np

    from edgecls.reviewing.config import LARGEST_GROUP

    drawn = np.random.default_rng(seed).permutation(len(labels))[:count]
    truth = {f"{number}.jpg": f"class {labels[at]}" for number, at in enumerate(drawn.tolist())}
    classes = range(int(labels.max()) + 1)
    keys = {f"class {number}": 1 if number < 10 else 2 + len(str(number + 1)) for number in classes}
    pressed = groups = 0
    with tempfile.TemporaryDirectory() as folder:
        queue = queue_of(features[drawn], folder, LARGEST_GROUP)
        while group := queue.next("labeller"):
            groups += 1
            cost, order = cheapest(group, truth, keys)
            pressed += cost
            for label in order:
                seen = {each.item.path: each.version for each in group if truth[each.item.path] == label}
                queue.decide("labeller", seen, "label", label)
            queue._choice.learn()
        decided = queue.decisions.decided()
        assert {path: verdict.label for path, verdict in decided.items()} == truth
    return {"keystrokes": pressed, "groups": groups, "keystrokes for 1,000 images": 1000 * pressed / len(truth)}


def cheapest(group: list[Shown], truth: dict[str, str], keys: dict[str, int]) -> tuple[int, list[str]]:
    """The fewest keystrokes for a group, and its classes in the order that they are decided in."""
    guess = group[0].guess
    found: dict[str, list[int]] = {}
    for each in group:
        label = truth[each.item.path]
        presses = each.others.index(label) + 1 if label in each.others else sys.maxsize
        found.setdefault(label, []).append(presses)
    ways = []
    for rest in found:
        total = 1 if rest == guess else keys[rest]
        for label in found.keys() - {rest}:
            marked = len(found[label]) + keys[label]
            total += min(marked, sum(found[label])) if rest == guess else marked
        ways.append((total, rest))
    total, rest = min(ways)
    return total, sorted(found, key=lambda label: label == rest)


def choice(features: NDArray[float32], labels: NDArray[int64], seeds: range) -> dict[str, Any]:
    """Labels that the queue's choice needs for what random choice reaches, as shares."""
    import numpy as np

    curves: dict[str, list[list[float]]] = {"random": [], "queue": []}
    for seed in seeds:
        drawn = np.random.default_rng(seed).permutation(len(labels))
        pool, test = drawn[len(drawn) // 3 :][:POOL], drawn[: len(drawn) // 3]
        orders = {"random": [*range(min(MOST, len(pool)))], "queue": chosen_order(features[pool], labels[pool])}
        for name, order in orders.items():
            curves[name].append(tested(features, labels, pool[order], test))
    random, queue = (np.mean(curves[name], axis=0) for name in ("random", "queue"))
    counts = [count for count in REACHED if count <= EVERY * len(random)]
    return {
        "random": {count: round(float(random[count // EVERY - 1]), 4) for count in counts},
        "queue": {count: round(float(queue[count // EVERY - 1]), 4) for count in counts},
        "share": {count: round(needed(queue, float(random[count // EVERY - 1])) / count, 3) for count in counts},
    }


def chosen_order(features: NDArray[float32], labels: NDArray[int64]) -> list[int]:
    """The order in which the queue shows images one at a time, to a labeller who knows them."""
    order: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        queue = queue_of(features, folder, 1)
        while len(order) < min(MOST, len(features)):
            (shown,) = queue.next("labeller")
            at = queue.position_of[shown.item.path]
            queue.decide("labeller", {shown.item.path: shown.version}, "label", f"class {labels[at]}")
            order.append(at)
            if len(order) % LEARNED_EVERY == 0:
                queue._choice.learn()
    return order


def tested(
    features: NDArray[float32], labels: NDArray[int64], order: NDArray[int64], test: NDArray[int64]
) -> list[float]:
    """Top-1 on the test after every 20 labels."""
    import numpy as np
    from sklearn.linear_model import LogisticRegression

    scaled = 8 * features / np.linalg.norm(features, axis=1, keepdims=True)
    found = []
    for count in range(EVERY, len(order) + 1, EVERY):
        learned = order[:count]
        if len(set(labels[learned].tolist())) < 2:
            found.append(float((labels[test] == labels[learned][0]).mean()))
            continue
        classifier = LogisticRegression(max_iter=1000).fit(scaled[learned], labels[learned])
        found.append(float((classifier.predict(scaled[test]) == labels[test]).mean()))
    return found


def needed(curve: NDArray[float32], wanted: float) -> float:
    """Labels until a curve reaches a top-1, infinite where it does not."""
    for position, value in enumerate(curve.tolist()):
        if value >= wanted:
            if position == 0:
                return float(EVERY)
            before = float(curve[position - 1])
            return EVERY * (position + (wanted - before) / (value - before))
    return float("inf")


if __name__ == "__main__":
    main()
