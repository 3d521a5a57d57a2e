"""What decoding JPEGs at the size that the network needs saves, and whether it changes what a model says.

    python benchmarks/decode.py MODEL FOLDER [FACTOR]

Takes the JPEGs below FOLDER, enlarged FACTOR times to stand for a camera with more pixels. Prints the time from a
file's bytes to the network's input on one core, whole and reduced in turn, and for how many images the model says the
same; for comparison, for how many it does after random noise as small as the difference.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import edgecls
from edgecls.clock import Latency, sample
from edgecls.imaging.decode import decode_image, image_paths
from edgecls.imaging.opencv import cv2

TIMED_IMAGES = 5
ROUNDS = 5


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    factor = float(sys.argv[3]) if len(sys.argv) > 3 else 1.0
    paths = [path for path in image_paths([Path(sys.argv[2])]) if path.suffix.lower() in (".jpg", ".jpeg")]
    with edgecls.load(sys.argv[1]) as model:
        _print_times([_enlarged(path, factor) for path in paths[:TIMED_IMAGES]], model)
        _print_agreement(paths, factor, model)


def _enlarged(path: Path, factor: float) -> bytes:
    content = path.read_bytes()
    if factor == 1:
        return content
    image = cv2.resize(decode_image(content, path.name), None, fx=factor, fy=factor, interpolation=cv2.INTER_LANCZOS4)
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes()


def _print_times(contents: list[bytes], model: edgecls.Classifier) -> None:
    preprocess = model.card.preprocess
    durations: dict[str, list[float]] = {"whole": [], "reduced": []}
    for _ in range(ROUNDS):
        for content in contents:
            for name, geometry in (("whole", None), ("reduced", preprocess)):
                work = lambda c=content, g=geometry: preprocess(decode_image(c, "image", geometry=g))  # noqa: E731
                durations[name] += sample(work, seconds=0.1, warmup_s=0.02, min_calls=3)
    whole, reduced = (Latency.of(durations[name]).p50_ms for name in ("whole", "reduced"))
    height, width = decode_image(contents[0], "image").shape[:2]
    side = f"{preprocess.width_px}x{preprocess.height_px}"
    print(f"{width}x{height} to {side}: whole {whole:.1f} ms, reduced {reduced:.1f} ms, {whole / reduced:.2f}x")


def _print_agreement(paths: list[Path], factor: float, model: edgecls.Classifier) -> None:
    preprocess, generator = model.card.preprocess, np.random.default_rng(0)
    differences, same, same_after_noise = [], 0, 0
    for path in paths:
        content = _enlarged(path, factor)
        whole = preprocess(decode_image(content, path.name))
        reduced = preprocess(decode_image(content, path.name, geometry=preprocess))
        differences.append(cv2.absdiff(whole, reduced).mean())
        noise = generator.choice([-1, 0, 1], whole.shape, p=[0.15, 0.7, 0.15])  # 0.3 grey levels
        noisy = np.clip(whole.astype(int) + noise, 0, 255).astype(np.uint8)
        answers = [int(model.session.infer(pixels[None]).argmax()) for pixels in (whole, reduced, noisy)]
        same += answers[0] == answers[1]
        same_after_noise += answers[0] == answers[2]
    print(
        f"{len(paths)} images: mean difference {np.mean(differences):.2f} grey levels, the same answer for "
        f"{same / len(paths):.2%}; after noise of 0.3 grey levels for {same_after_noise / len(paths):.2%}"
    )


if __name__ == "__main__":
    main()
