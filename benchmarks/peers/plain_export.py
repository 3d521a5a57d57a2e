"""Export a run's network for tools that feed float32 NCHW images from 0 to 1: `python plain_export.py RUN`.

Mean and deviation move into the graph, so that every tool computes the same function of the same pixels. Writes
`peers/` beside the bundles: ONNX and OpenVINO with Ultralytics' metadata, TorchScript for ncnn.
"""

from __future__ import annotations

import json
import shutil
import sys

from edgecls.models import create, load_weights, read_weights
from edgecls.runtime import store


def main() -> None:
    """Export everything."""
    import onnx
    import torch
    import yaml

    run = store.find_run(sys.argv[1])
    card, folder = run.card, run.path / "peers"
    folder.mkdir(exist_ok=True)
    network = create(card.arch, len(card.classes))
    load_weights(network, card.arch, read_weights(run.path / card.model_file), str(run.path))
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) for values in (card.preprocess.mean, card.preprocess.std))

    class Plain(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.register_buffer("mean", mean)
            self.register_buffer("std", std)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.network((images - self.mean) / self.std).softmax(dim=1)

    module, size = Plain().eval(), card.preprocess.height_px
    example = torch.zeros(1, 3, size, size)
    torch.onnx.export(module, (example,), folder / "nchw.onnx", input_names=["images"], output_names=["output0"],
                      opset_version=17, dynamo=False)  # fmt: skip
    names = dict(enumerate(card.classes))
    metadata = {"task": "classify", "stride": 1, "batch": 1, "imgsz": [size, size], "names": names, "channels": 3}
    model = onnx.load(folder / "nchw.onnx")
    for key, value in metadata.items():
        model.metadata_props.add(key=key, value=str(value))
    onnx.save(model, folder / "nchw.onnx")
    torch.jit.trace(module, example).save(folder / "nchw.torchscript")
    import openvino

    path = folder / "nchw_openvino_model"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    converted = openvino.convert_model(folder / "nchw.onnx")
    openvino.save_model(converted, path / "nchw.xml", compress_to_fp16=False)
    (path / "metadata.yaml").write_text(yaml.safe_dump(metadata))
    (folder / "about.json").write_text(json.dumps({"from": str(run.path.name), "size_px": size}))


if __name__ == "__main__":
    main()
