"""Writes a folder that has the shape of a known SmolVLA and no weights, to measure speed without downloading anything.

    python host/model/training/make_shape.py host/model/training/shapes/smolvla-450m

The folder holds what LeRobot saves beside the weights, and `vlm/`, with a vocabulary of a few words. Its settings are
those of lerobot/smolvla_base and of HuggingFaceTB/SmolVLM2-500M-Video-Instruct; its statistics change nothing.
Needs `lerobot[smolvla]==0.4.4`.
"""
import argparse
import os
import pathlib
import shutil

from policy import save_vlm  # first: it keeps the hub offline

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

SHUFFLE = 4
TEXT = dict(model_type="llama", hidden_size=960, intermediate_size=2560, num_hidden_layers=32, num_attention_heads=15,
            num_key_value_heads=5, head_dim=64, vocab_size=49280, rope_theta=100000.0, max_position_embeddings=8192,
            rms_norm_eps=1e-5)
VISION = dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, image_size=512,
              patch_size=16)
CAMERAS = ["camera1", "camera2", "camera3"]
JOINTS = 6


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path)
    out = arguments.parse_args().out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.chdir(out)  # `vlm_model_name` is relative to it
    save_vlm("vlm", TEXT, VISION, SHUFFLE)
    inputs = {f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, 256, 256)) for camera in CAMERAS}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (JOINTS,))
    config = SmolVLAConfig(
        input_features=inputs, output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))}, device="cpu",
        vlm_model_name="vlm", push_to_hub=False, pad_language_to="max_length", prefix_length=0, num_expert_layers=0)
    same = {"mean": torch.zeros(JOINTS), "std": torch.ones(JOINTS)}
    config._save_pretrained(out)
    for part in make_smolvla_pre_post_processors(config, {"observation.state": same, "action": same}):
        part.save_pretrained(out)


if __name__ == "__main__":
    main()
