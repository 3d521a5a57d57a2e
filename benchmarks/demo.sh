#!/bin/sh
# The main job on the embedded data set, from images to a live stream. Run by `make demo`; needs nothing but edgecls.
set -eu

say() { printf '\n\033[1m$ %s\033[0m\n' "$*"; "$@"; }

say edgecls train
say edgecls export --target onnx,openvino
say edgecls export --target onnx,openvino,tensorrt --int8
say edgecls benchmark
say edgecls stream --camera demo --duration 8 --record runs/demo.mp4 --events runs/demo.jsonl
