"""The cells of experiments/README.md about speed that logs decide."""

from collections.abc import Mapping
from statistics import median
from typing import Any

from tables.markdown import Lines

GPU_CASES = {  # case of experiments/step_gpu -> its name in the sentence
    "fastmim_vit_b16": "FastMIM ViT-B/16",
    "fastmim_swin_b": "FastMIM Swin-B",
    "mae_vit_b16": "MAE ViT-B/16",
    "simmim_vit_b16": "SimMIM ViT-B/16",
}


def reading(measured: Mapping[str, Any]) -> str:
    """Return the speed of reading a crop beside the published pipeline's, the medians of the rounds."""
    times = {kind: median(ratios) for kind, ratios in measured["ratios"].items()}
    return (
        f"originals {times['originals']:.1f} times as fast, 256-px `jpeg` records {times['jpeg']:.1f}, "
        f"`yuv420` {times['yuv420']:.0f}, `raw` {times['raw']:.0f} times the published pipeline "
        "from originals"
    )


def pretraining(measured: Mapping[str, Any]) -> str:
    """Return the time of a step of the other methods over one of FastMIM."""
    texts = []
    for result in measured["results"]:
        others = [method for method in result["methods"] if method["method"] != "FastMIM"]
        ratios = [f"{x['method']} {x['ratio']:.1f}x ({x['pixels']} px)" for x in others]
        texts.append(f"{result['backbone']}: {', '.join(ratios)}")
    turns = len(measured["results"][0]["methods"][0]["turns_ratio"])
    return f"over FastMIM's step at 128 px, {'; '.join(texts)}; {turns} turns"


def steps_on_gpu(lines: Lines) -> str:
    """Return the throughput of our step over the published one's, and over it with torch.compile."""
    speeds = {(x["case"], x["side"], x["mode"]): x["img_s"] for x in lines if "img_s" in x}
    texts = []
    for case, label in GPU_CASES.items():
        ours = speeds[case, "ours", "default"]
        text = f"{label} {ours / speeds[case, 'published', 'fp16']:.2f}"
        if compiled := speeds.get((case, "published", "bf16_compile")):
            text += f" ({ours / compiled:.2f} times torch.compile)"
        texts.append(text)
    return f"times as fast: {', '.join(texts)}"
