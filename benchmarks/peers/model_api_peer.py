"""OpenVINO Model API on edgecls' model files, which carry what it needs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import common
import cv2


def files(plan: dict[str, Any]) -> dict[str, float]:
    """JPEG files to labels: its synchronous loop, or its asynchronous queue."""
    from model_api.models import ClassificationModel

    model = ClassificationModel.create_model(f"{plan['model']}/model.xml")

    def one_by_one(paths: list[str]) -> int:
        return len([model(cv2.imread(path)).top_labels[0].name for path in paths])

    def queued(paths: list[str]) -> int:
        labels: list[str] = []
        model.set_callback(lambda result, _data: labels.append(result.top_labels[0].name))
        for path in paths:
            while not model.is_ready():
                model.await_any()
            model.infer_async(cv2.imread(path), {})
        model.await_all()
        return len(labels)

    work = queued if plan.get("asynchronous") else one_by_one
    return common.rated(lambda: work(plan["photos"]), lambda: work(plan["photos"][:20]))


def video(plan: dict[str, Any]) -> dict[str, float]:
    """A video file to labels in its synchronous loop."""
    from model_api.models import ClassificationModel

    model = ClassificationModel.create_model(f"{plan['model']}/model.xml")

    def work() -> int:
        capture, count = cv2.VideoCapture(plan["video"]), 0
        while True:
            ok, image = capture.read()
            if not ok:
                return count
            model(image).top_labels[0].name  # noqa: B018
            count += 1

    return common.rated(work, lambda: model(cv2.imread(plan["photos"][0])))


common.main({"files": files, "video": video})
