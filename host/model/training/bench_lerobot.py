"""Measures LeRobot's own latency on a checkpoint, to hold Waza's against.

    python bench_lerobot.py CHECKPOINT --threads 2 --runs 50

One request is what `waza model bench` measures: raw frames, state and instruction in, un-normalised actions out, batch of
one, on the CPU. Prints one JSON object: `p50_ms`, `p99_ms`, `runs`, `threads`, `lerobot` (its version).
"""
import argparse
import importlib.metadata
import json
import math
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

WARM_UP = 3


def enter_folder_of_vlm(checkpoint, names):
    """LeRobot takes relative names from the working directory; Waza also looks inside the checkpoint and beside it."""
    for folder in (checkpoint, checkpoint.parent):
        if all((folder / name / "config.json").is_file() for name in names):
            os.chdir(folder)
            return


def measure(checkpoint, instruction, runs):
    config = json.loads((checkpoint / "config.json").read_text())
    enter_folder_of_vlm(checkpoint, [config["vlm_model_name"]])
    policy = SmolVLAPolicy.from_pretrained(checkpoint).to("cpu").float().eval()
    overrides = {"device_processor": {"device": "cpu"}}
    pre, post = make_pre_post_processors(policy.config, str(checkpoint), preprocessor_overrides=overrides)
    generator = torch.Generator().manual_seed(0)
    request = {"task": instruction}
    for key, feature in policy.config.input_features.items():
        if feature.type is FeatureType.STATE:
            request[key] = torch.randn(feature.shape, generator=generator)
        elif ".empty_camera_" not in key:
            _, height, width = feature.shape
            request[key] = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    times = []
    for run in range(WARM_UP + runs):
        start = time.perf_counter()
        batch = {k: v.permute(2, 0, 1).float() / 255 if getattr(v, "ndim", 0) == 3 else v for k, v in request.items()}
        with torch.inference_mode():
            post(policy.predict_action_chunk(pre(batch)))
        if run >= WARM_UP:
            times.append((time.perf_counter() - start) * 1e3)
    return sorted(times)


def percentile(times, share):
    """Nearest rank, as Waza computes it."""
    return times[max(math.ceil(share * len(times)), 1) - 1]


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--instruction", default="touch the red block")
    arguments.add_argument("--runs", type=int, default=50)
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    out, sys.stdout = sys.stdout, sys.stderr  # LeRobot prints while it loads
    times = measure(given.checkpoint.resolve(), given.instruction, max(given.runs, 1))
    report = {"p50_ms": percentile(times, 0.5), "p99_ms": percentile(times, 0.99), "runs": len(times),
              "threads": given.threads, "lerobot": importlib.metadata.version("lerobot")}
    print(json.dumps(report), file=out)


if __name__ == "__main__":
    main()
