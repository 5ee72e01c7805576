"""Measures LeRobot's own latency, one request at a time, to hold Waza's against.

    python bench_lerobot.py CHECKPOINT --threads 2

It loads the policy, warms it up and prints one line, `{"ready": true, "lerobot": VERSION, "threads": N, "device": NAME}`.
From then on each line `run` on its input is answered with one measured request, `{"ms": X}`, so that whoever measures can
alternate between LeRobot and something else under the same conditions. It ends with its input.

A request is what `waza-bench model` measures: raw frames, state and instruction in, un-normalised actions out, a batch of
one. With `--random` the weights are drawn here and CHECKPOINT needs only `config.json` and the VLM's folder; a checkpoint
without processor files then gets normalised tensors and tokens, and its time is the policy's alone.
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
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies.factory import make_pre_post_processors
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

WARM_UP = 3
SLOW_S = 1.0  # a request that takes longer warms up alone


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("checkpoint", type=Path)
    arguments.add_argument("--random", action="store_true", help="draw the weights; the checkpoint needs none")
    arguments.add_argument("--instruction", default="touch the red block")
    arguments.add_argument("--cameras", type=int, help="give only the first so many cameras")
    arguments.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments.add_argument("--compile", action="store_true", help="torch.compile with the checkpoint's compile_mode")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    answers, sys.stdout = sys.stdout, sys.stderr  # LeRobot prints while it loads
    request = make_request(given)
    for _ in range(WARM_UP):
        if request() > SLOW_S * 1e3:
            break
    name = torch.cuda.get_device_name() if given.device == "cuda" else "CPU"
    say(answers, {"ready": True, "lerobot": importlib.metadata.version("lerobot"), "threads": given.threads,
                  "device": name})
    for line in sys.stdin:
        if line.strip() != "run":
            sys.exit(f"expected `run`, got {line.strip()!r}")
        say(answers, {"ms": request()})


def say(answers, message):
    print(json.dumps(message), file=answers, flush=True)


def make_request(given):
    """A function that makes one request and returns its milliseconds."""
    checkpoint = given.checkpoint.resolve()
    config = json.loads((checkpoint / "config.json").read_text())
    enter_folder_of_vlm(checkpoint, config["vlm_model_name"])
    policy = load(checkpoint, given)
    if given.random and not (checkpoint / "policy_preprocessor.json").is_file():
        pre, post, observation = dict, lambda actions: actions.cpu(), prepared_observation(policy, given)
    else:
        pre, post = make_pre_post_processors(
            policy.config, str(checkpoint), preprocessor_overrides={"device_processor": {"device": given.device}})
        observation = raw_observation(policy, given)

    def request():
        settle(given.device)
        start = time.perf_counter()
        batch = {key: as_image(value) for key, value in observation.items()}
        with torch.inference_mode():
            post(policy.predict_action_chunk(pre(batch)))
        settle(given.device)
        return (time.perf_counter() - start) * 1e3

    return request


def enter_folder_of_vlm(checkpoint, name):
    """LeRobot takes relative names from the working directory; Waza also looks inside the checkpoint and beside it."""
    for folder in (checkpoint, checkpoint.parent):
        if (folder / name / "config.json").is_file():
            os.chdir(folder)
            return


def load(checkpoint, given):
    config = PreTrainedConfig.from_pretrained(checkpoint)
    config.device = given.device
    if given.random:
        config.load_vlm_weights = False
        policy = SmolVLAPolicy(config)
        enliven(policy)
    else:
        policy = SmolVLAPolicy.from_pretrained(checkpoint, config=config)
    policy = policy.to(given.device).float().eval()
    if given.dtype == "bfloat16":
        # LeRobot casts on the way into the layers, and computes the state's and the actions' projections in f32.
        policy.model.vlm_with_expert.bfloat16()
    if given.compile:
        torch.set_float32_matmul_precision("high")  # as LeRobot does when it compiles
        policy.model.sample_actions = torch.compile(policy.model.sample_actions, mode=config.compile_mode)
    return policy


def enliven(policy):
    """Weights that keep numbers of an ordinary size through all layers, because odd ones can change a time."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.ndim > 1:
                drawn = torch.randn(weight.shape, generator=generator)
                weight.copy_(drawn / math.sqrt(weight[0].numel()))


def raw_observation(policy, given):
    """Frames as a camera gives them, a state and the instruction."""
    generator = torch.Generator().manual_seed(0)
    observation = {"task": given.instruction}
    for key, feature in policy.config.input_features.items():
        if feature.type is FeatureType.STATE:
            observation[key] = torch.randn(feature.shape, generator=generator)
    cameras = [key for key in policy.config.image_features if ".empty_camera_" not in key]
    for key in cameras[: given.cameras]:
        _, height, width = policy.config.image_features[key].shape
        observation[key] = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return observation


def prepared_observation(policy, given):
    """What the preprocessor would make of it: a batch, images as floats, a token for each word."""
    observation = raw_observation(policy, given)
    words = len(observation.pop("task").split())
    batch = {key: as_image(value)[None].to(given.device) for key, value in observation.items()}
    length = policy.config.tokenizer_max_length if policy.config.pad_language_to == "max_length" else words
    valid = torch.arange(length, device=given.device)[None] < words
    return batch | {"observation.language.tokens": valid.long(), "observation.language.attention_mask": valid}


def as_image(value):
    """A raw frame as LeRobot takes it, and anything else as it is."""
    raw = isinstance(value, torch.Tensor) and value.dtype is torch.uint8
    return value.permute(2, 0, 1).float() / 255 if raw else value


def settle(device):
    if device == "cuda":
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
