"""The figures in the README, made from the committed results: `python benchmarks/tables.py` writes them in.

Each stands between `<!-- NAME -->` and `<!-- end of NAME -->`; a test holds README and results together.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = ROOT / "README.md"


def newest(pattern: str) -> dict[str, Any]:
    """The newest result whose file name matches; names begin with the date."""
    found: dict[str, Any] = json.loads(sorted(RESULTS.glob(pattern))[-1].read_text())
    return found


def machine(result: dict[str, Any]) -> str:
    """On what a result was measured."""
    sets = [name for name in result["machine"]["instruction_sets"] if "VNNI" in name or "AMX" in name]
    return f"{result['machine']['cpu']}, {result['machine']['cores']} cores" + (
        f" with {', '.join(sets)}" if sets else ""
    )


PEERS = {
    "edgecls openvino-int8, streams": "edgecls, OpenVINO int8",
    "edgecls openvino-fp32, streams": "edgecls, OpenVINO",
    "edgecls onnx-fp32, streams": "edgecls, ONNX Runtime",
    "Model API fp32, asynchronous": "Model API, asynchronous",
    "Model API fp32": "Model API",
    "Ultralytics onnx": "Ultralytics, ONNX Runtime",
    "Ultralytics openvino": "Ultralytics, OpenVINO",
}


def table(heads: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown; the first column is text, the others are numbers."""
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def peers() -> str:
    """Against other tools: rates of files and video, and start-up."""
    result = newest("*-peers-*.json")
    summary, rows = result["summary"], []
    for key, name in PEERS.items():
        cells = []
        for job in ("files", "video"):
            found = summary[job].get(key)
            low, high = found["interval"] if found and "interval" in found else (0.0, 0.0)
            cells.append(f"{found['images_per_s']:.0f} ({low:.0f} to {high:.0f})" if found else "")
        rows.append([name, *cells])
    start = summary["start"]
    ratio = start["Ultralytics onnx"]["p50_ms"] / start["edgecls onnx-fp32"]["p50_ms"]
    message = (
        f"{machine(result)}; MobileNetV2 at 224 pixels, {result['rounds']} interleaved rounds, median and where "
        f"another run's lies (95 %). float32 unless it says int8.\n\n"
    )
    heads = ["images/s, higher is better", "400 JPEG files to labels", "video file to labels"]
    helps = f"\n\n`edgecls --help` answers {ratio:.1f}x as fast as `yolo help`."
    return message + table(heads, rows) + helps


def overhead() -> str:
    """What a session costs on top of its runtime called directly."""
    result = newest("*-peers-*.json")
    infer, rows = result["summary"]["infer"], []
    for ours, theirs in (
        ("edgecls onnx-fp32", "onnxruntime fp32"), ("edgecls onnx-int8", "onnxruntime int8"),
        ("edgecls openvino-fp32", "openvino fp32"), ("edgecls openvino-int8", "openvino int8"),
    ):  # fmt: skip
        # Round by round, so that the machine's pace cancels.
        visits = result["visits"]["infer"]
        extra = [a["p50_ms"] - b["p50_ms"] for a, b in zip(visits[ours], visits[theirs], strict=True)]
        share = [a["p50_ms"] / b["p50_ms"] - 1 for a, b in zip(visits[ours], visits[theirs], strict=True)]
        rows.append([
            ours.removeprefix("edgecls "), f"{infer[ours]['p50_ms']:.2f}", f"{infer[theirs]['p50_ms']:.2f}",
            f"{1000 * statistics.median(extra):+.0f}", f"{statistics.median(share):+.1%}",
        ])  # fmt: skip
    heads = ["one image, ms", "edgecls", "the runtime directly", "difference (µs)", "ratio - 1"]
    rates = []
    for ours, theirs in (
        ("edgecls openvino-fp32, streams", "benchmark_app fp32, throughput"),
        ("edgecls openvino-int8, streams", "benchmark_app int8, throughput"),
    ):
        rates.append([ours.removeprefix("edgecls ").removesuffix(", streams"), f"{infer[ours]['images_per_s']:.0f}",
                      f"{infer[theirs]['images_per_s']:.0f}",
                      f"{infer[ours]['images_per_s'] / infer[theirs]['images_per_s'] - 1:+.1%}"])  # fmt: skip
    return table(heads, rows) + "\n\n" + table(["images/s", "edgecls", "benchmark_app", "ratio - 1"], rates)


def training() -> str:
    """Training throughput, side by side."""
    result = newest("*-training-throughput-*.json")
    base = statistics.median(each["images_per_s"] for each in result["rounds"]["plain"])
    names = {"plain": "a plain torchvision loop", "edgecls": "edgecls", "frozen": "edgecls, `--freeze backbone`"}
    rows = []
    for key, name in names.items():
        rates = [each["images_per_s"] for each in result["rounds"][key]]
        middle, peak = statistics.median(rates), max(each["peak_mb"] for each in result["rounds"][key])
        spread = f"{middle:.0f} ({min(rates):.0f} to {max(rates):.0f})"
        rows.append([name, spread, f"{middle / base:.1f}x", f"{peak / 1000:.1f}"])
    message = f"{machine(result)}; {result['arch']}, {result['size_px']} pixels, batches of {result['batch']}.\n\n"
    return message + table(["training", "images/s", "", "peak memory (GB)"], rows)


def transfer() -> str:
    """Transfer learning against training from scratch."""
    rows = []
    for file in sorted(RESULTS.glob("*-transfer-*.json")):
        result = json.loads(file.read_text())
        options = dict(zip(result["options"][::2], result["options"][1::2], strict=False))
        cells = [f"{100 * result[k]['top1']:.1f} ({100 * result[k]['interval'][0]:.1f} to "
                 f"{100 * result[k]['interval'][1]:.1f})" for k in ("transfer", "scratch")]  # fmt: skip
        name = "sign digits, seeded 80/20" if "sign" in file.name else "clothing, published split"
        network = f"{options['--arch'].rpartition('/')[2]}, {options['--size']} px, {options['--epochs']} epochs"
        rows.append([name, network, *cells])
    return table(["data", "network", "top-1 with ImageNet weights (%)", "from scratch"], rows)


def uneven() -> str:
    """Ways to balance uneven classes."""
    rows, machines = [], set()
    for file in sorted(RESULTS.glob("*-uneven-*.json")):
        result = json.loads(file.read_text())
        settings, found = result["settings"], result["rows"]
        machines.add(machine(result))
        learned = "frozen backbone" if settings["freeze"] == "backbone" else "fine-tuned"
        for kind in dict.fromkeys(row["subset"] for row in found):
            mine = [row for row in found if row["subset"] == kind]
            seeds = len({row["seed"] for row in mine})
            data = f"{found[0]['data'].replace('_', ' ')}, {kind}; {learned}, {seeds} seeds"
            rows.append([data, *(_spread([row for row in mine if row["way"] == way]) for way in UNEVEN)])
    heads = ["", *UNEVEN.values()]
    message = (
        f"{'; '.join(sorted(machines))}; MobileNetV2 with ImageNet weights, at 64 (sign digits) and 96 pixels. "
        "Long tail: 30 : 1 in geometric steps; one large: all images of one class, 10 of each other.\n\n"
    )
    return message + table(heads, rows)


UNEVEN = {
    "before": "nothing, top-1 selects", "sampling": "`sampling`", "weights": "`weights`",
    "logit-adjustment": "`logit-adjustment`",
}  # fmt: skip


def _spread(rows: list[dict[str, Any]]) -> str:
    """Macro F1 with its standard deviation, and top-1."""
    if len(rows) < 2:
        return ""
    f1, top1 = ([100 * row[figure] for row in rows] for figure in ("macro_f1", "top1"))
    return f"{statistics.mean(f1):.1f} ± {statistics.stdev(f1):.1f} ({statistics.mean(top1):.1f})"


def stream() -> str:
    """Frame age without and with somebody slow, and the soak."""
    result, soak = newest("*-stream-latency-*.json"), newest("*-stream-soak-*.json")
    rows = []
    for slow, name in (("nobody", "nobody else"), ("sink", "a sink that takes 0.2 s a frame"),
                       ("browsers", "three browsers that do not read")):  # fmt: skip
        found = result["rounds"][slow]
        middle = [statistics.median(each["age"][key] for each in found) for key in ("p50_ms", "p99_ms")]
        bound = statistics.median(each["bound_ms"] for each in found)
        rows.append([name, *(f"{value:.1f}" for value in middle), f"{bound:.1f}"])
    heads = ["beside the stream", "frame age p50 (ms)", "p99", "two inferences and a frame"]
    cameras = soak["cameras"]
    message = (
        f"{machine(result)}; {result['frames']:,} decisions a round, {len(result['rounds']['nobody'])} rounds, a "
        f"source of {result['fps']:.0f} frames/s.\n\n"
    )
    faults = sum(soak["faults"].values())
    after = (
        f"\n\nA soak of {soak['minutes']:.0f} minutes with {faults} injected faults ({len(cameras)} cameras killed, "
        f"frozen, restarted and resized, an MQTT broker that came and went, a webhook that failed half of the time): "
        f"{sum(each['captured'] for each in cameras):,} frames captured, memory slope "
        f"{soak['memory_slope_mb_per_hour']:+.1f} MB/h at {soak['memory_mb']['last']:.0f} MB, "
        f"{soak['threads']['settled'][0]} to {soak['threads']['settled'][1]} threads, {soak['descriptors'][0]} to "
        f"{soak['descriptors'][1]} descriptors, {soak['inconsistent']} of {soak['samples']} looks at the counters "
        f"inconsistent, ended {soak['seconds_to_end']:.1f} s after SIGTERM."
    )
    return message + table(heads, rows) + after


def suspects() -> str:
    """What is found of labels that were made wrong."""
    names = {
        "length of the list / flipped": "list / flipped", "precision of the list": "precision",
        "recall of the list": "recall", "recall of its first, as many as flipped": "recall, as many as flipped",
        "both, ranked by normalized margin": "the same by normalized margin",
    }  # fmt: skip
    results = [newest(f"*-suspects-{name}.json") for name in ("sign_digits", "clothing")]
    rows = [
        [
            f"{each['data'].replace('_', ' ')}, {each['images']} images",
            *(f"{statistics.mean(each[key]):.2f} ({min(each[key]):.2f} to {max(each[key]):.2f})" for key in names),
        ]
        for each in results
    ]
    return f"{machine(results[0])}.\n\n" + table(["data", *names.values()], rows)


def draw_peers(path: Path) -> None:
    """The rates of files and video as bars, ours and theirs."""
    from edgecls.report.figures import INK, MUTED, TARGET_COLOURS, canvas, png

    summary = newest("*-peers-*.json")["summary"]
    figure, axes = canvas(1, 2, width_in=9.0, height_in=3.0)
    for each, job, title in zip(
        axes, ("files", "video"), ("400 JPEG files to labels", "a video to labels"), strict=True
    ):
        shown = [(name, summary[job][key]) for key, name in reversed(PEERS.items()) if key in summary[job]]
        colours = [TARGET_COLOURS[0] if name.startswith("edgecls") else MUTED for name, _ in shown]
        values = [found["images_per_s"] for _, found in shown]
        reach = [[v - f["interval"][0], f["interval"][1] - v] for v, (_, f) in zip(values, shown, strict=True)]
        each.barh([name for name, _ in shown], values, color=colours, xerr=list(zip(*reach, strict=True)), ecolor=INK)
        each.set_title(title, loc="left", color=INK, fontsize=10)
        each.set_xlabel("images/s", color=MUTED)
        each.grid(axis="y", visible=False)
    path.write_bytes(png(figure))


RELEARNED = {
    "before": "before", "last layer": "`retrain`", "all layers, 2 epochs": "all layers, 2 epochs",
    "adapt, fp32": "`adapt`", "adapt, int8": "`adapt`, int8",
}  # fmt: skip
LATER = {"condition": "all classes in dim, warm light", "class": "a new class, half of the images"}


def relearn() -> str:
    """Accuracy before and after learning 100 new images, for each way to learn."""
    result = newest("*-relearn-*.json")
    groups: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for turn in result["turns"]:
        groups.setdefault((turn["data"], turn["scenario"]), {}).setdefault(turn["way"], []).append(turn)
    rows = []
    for (data, scenario), ways in groups.items():
        for way, turns in ways.items():
            new, old = [turn["new"] for turn in turns], statistics.mean(turn["old"] for turn in turns)
            spread = f"{statistics.mean(new):.1f} ({min(new):.1f} to {max(new):.1f})"
            seconds = statistics.median(turn["seconds"] for turn in turns)
            what = f"{data.replace('_', ' ')}: {LATER[scenario]}" if way == "before" else ""
            rows.append([what, RELEARNED[way], f"{old:.1f}", spread, f"{seconds:.0f}" if seconds else ""])
    head = (
        f"{machine(result)}; {result['arch']} at {result['size_px']} pixels, 100 new images, up to five seeds: mean, "
        "smallest to largest. Old: the run's test images; new: what it never saw of what is new."
    )
    return f"{head}\n\n{table(['new images', 'learned by', 'old top-1 (%)', 'new top-1 (%)', 's'], rows)}"


BLOCKS: dict[str, Callable[[], str]] = {
    "peers": peers, "overhead": overhead, "training": training, "transfer": transfer, "uneven": uneven,
    "relearn": relearn, "stream": stream, "suspects": suspects,
}  # fmt: skip


def filled(text: str) -> str:
    """A text with every block made anew."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end of {name} -->)", re.S)
        if pattern.search(text):
            block = make()
            text = pattern.sub(lambda match, block=block: f"{match[1]}\n{block}\n\n{match[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    README.write_text(filled(README.read_text()))
    draw_peers(RESULTS / "peers.png")
