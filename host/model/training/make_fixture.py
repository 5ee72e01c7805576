"""Makes the fixture of a small checkpoint with video and sensors: random weights, and one example that the oracle worked.

    python host/model/training/make_fixture.py host/model/tests/fixtures/smolvla-c

Before it writes, it checks the oracle against the formulas written out, and checks that no frame sees a later one, that
every input moves the actions, and that without video and sensors the result is LeRobot's. Needs `lerobot[smolvla]==0.4.4`;
the CPU is enough. The folder then holds

    checkpoint/           as LeRobot saves it, with `video` and `sensors` in config.json
    vlm/                  what `vlm_model_name` points to
    case.json             task, cameras and their sizes, frames a camera, steps and chunk
    case.safetensors
        image.<camera>          uint8 [frames, H, W, 3]    raw, oldest first
        sensors                 f32 [samples, channels]    raw, oldest first
        state                   f32 [state]                raw
        noise                   f32 [1, chunk, max_action_dim]
        tokens, token_mask      the task as the policy receives it
        image_embeds.<camera>   f32 [1, tokens, d]         what the connector makes of the newest frame
        velocity                f32 [steps, 1, chunk, max_action_dim]  the expert's output at each Euler step
        actions_normalized      f32 [1, chunk, action]
        actions                 f32 [1, chunk, action]     un-normalised
        actions.newest_<n>      f32 [1, chunk, action]     un-normalised, where a camera has only its n newest frames
"""
import argparse
import json
import math
import os
import pathlib
import shutil

import reference  # first: it keeps the hub offline
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors
from policy import save_vlm
from safetensors.torch import load_file, save_file

SEED = 3
TASK = "put the green block in the bowl"
CAMERAS = {"front": (96, 128), "wrist": (80, 80)}
VIDEO = dict(frames=3, every_n_layers=2)
SENSORS = dict(channels=6, samples=32, tokens=4)
STATE, ACTION = 6, 7
SHUFFLE = 4
TEXT = dict(model_type="llama", hidden_size=128, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2,
            num_key_value_heads=1, head_dim=64, vocab_size=32, rope_theta=100000.0, max_position_embeddings=8192,
            rms_norm_eps=1e-5)
VISION = dict(hidden_size=96, intermediate_size=160, num_hidden_layers=4, num_attention_heads=3, image_size=64,
              patch_size=8)
MOVES = 0.1  # by at least so much, in standard deviations of an action, must every input move some action


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("out", type=pathlib.Path)
    out = arguments.parse_args().out.resolve()
    torch.set_num_threads(1)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    os.chdir(out)  # `vlm_model_name` is relative to it
    save_vlm("vlm", TEXT, VISION, SHUFFLE)
    generator = torch.Generator().manual_seed(SEED)
    policy = reference.Policy(config(), VIDEO, SENSORS).eval().float()
    enliven(policy, generator)
    pre, post = make_smolvla_pre_post_processors(policy.config, statistics(generator))
    for part in (policy, pre, post):
        part.save_pretrained("checkpoint")
    case = example(policy.config, generator)
    check_age_codes()
    with torch.no_grad():
        check_attention(policy, pre, case)
        check_one_way(policy, pre, case)
        check_sensor_tokens(policy, pre, case)
    check_moves(policy, pre, case)
    check_plain(policy, pre, case)
    write(policy, pre, post, case)
    count = sum(parameter.numel() for parameter in policy.parameters())
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    print(f"{count / 1e6:.2f} M parameters, {size / 1e6:.2f} MB in {out}")


def config(**changes):
    inputs = {f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, *size))
              for camera, size in CAMERAS.items()}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (STATE,))
    inputs[reference.SENSORS] = PolicyFeature(FeatureType.ENV, (SENSORS["samples"], SENSORS["channels"]))
    normalization = {"VISUAL": NormalizationMode.IDENTITY, "STATE": NormalizationMode.MEAN_STD,
                     "ENV": NormalizationMode.MEAN_STD, "ACTION": NormalizationMode.MEAN_STD}
    return SmolVLAConfig(**dict(
        input_features=inputs, output_features={"action": PolicyFeature(FeatureType.ACTION, (ACTION,))}, device="cpu",
        normalization_mapping=normalization, vlm_model_name="vlm", push_to_hub=False,
        num_vlm_layers=TEXT["num_hidden_layers"], resize_imgs_with_padding=(VISION["image_size"],) * 2,
        expert_width_multiplier=0.5, pad_language_to="max_length", tokenizer_max_length=16, num_steps=5, chunk_size=16,
        n_action_steps=16) | changes)


def enliven(policy, generator):
    """Weights at which every part of the network matters to the actions: LeRobot's own start is too small for that."""
    with torch.no_grad():
        for name, weight in policy.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim > 1:
                gain = 0.7 if "embed" in name else 1.2
                # Patches must tell places apart, or one place among a frame's many weighs nothing.
                gain *= 2 if "vision_model" in name and ("q_proj" in name or "k_proj" in name) else 1
                weight.copy_(noise * gain / math.sqrt(weight[0].numel()))
            elif "norm" in name and name.endswith("weight"):
                weight.copy_(1 + 0.2 * noise)
            else:
                weight.copy_(0.1 * noise)


def statistics(generator):
    """A mean and a deviation for each number that is normalised."""
    sizes = {"observation.state": STATE, reference.SENSORS: SENSORS["channels"], "action": ACTION}
    return {key: {"mean": torch.randn(size, generator=generator), "std": 0.5 + torch.rand(size, generator=generator)}
            for key, size in sizes.items()}


def example(config, generator):
    case = {"state": torch.randn(STATE, generator=generator),
            "sensors": torch.randn(SENSORS["samples"], SENSORS["channels"], generator=generator),
            "noise": torch.randn(1, config.chunk_size, config.max_action_dim, generator=generator)}
    for camera, (height, width) in CAMERAS.items():
        frames = torch.randint(0, 256, (VIDEO["frames"], height, width, 3), generator=generator, dtype=torch.uint8)
        # Half of each frame is a slope that moves from frame to frame, so that resizing matters and time does.
        slope = torch.arange(width) + torch.arange(VIDEO["frames"])[:, None] * width // 3
        frames[:, : height // 2, :, 0] = (slope % width * 255 // width).to(torch.uint8)[:, None]
        case[f"image.{camera}"] = frames
    return case


def batch_of(pre, case):
    """The case as the policy takes it. LeRobot adds the batch to a state, but not to a video or a window of samples."""
    batch = {"observation.state": case["state"], "task": TASK, reference.SENSORS: case["sensors"][None]}
    for camera in CAMERAS:
        batch[f"observation.images.{camera}"] = case[f"image.{camera}"].permute(0, 3, 1, 2)[None].float() / 255
    return pre(batch)


def act(policy, pre, case):
    return policy.predict_action_chunk(batch_of(pre, case), noise=case["noise"])


def check_age_codes():
    """The codes are the formula's, and the newest frame's are zero."""
    frames, width = VIDEO["frames"], VISION["hidden_size"]
    codes = reference.age_codes(frames, width)
    half = width // 2
    for age in range(frames):
        for j in range(half):
            angle = age * 10000 ** (-j / half)
            wanted = torch.tensor([math.sin(angle), math.cos(angle) - 1])
            found = codes[frames - 1 - age, [j, half + j]]
            assert torch.allclose(found, wanted, rtol=1e-6, atol=1e-12), (age, j)
    assert not codes[-1].any()


def check_attention(policy, pre, case):
    """Each layer does to some patches what the formula says, written out for one query at a time."""
    vlm = policy.model.vlm_with_expert
    image = policy.prepare_images(batch_of(pre, case))[0][0]
    seen = vlm.watch(image)
    for index, layer in enumerate(vlm.get_vlm_model().vision_model.encoder.layers):
        before, after, attention = seen[index][0], seen[index + 1][0], layer.self_attn
        normed = layer.layer_norm1(before)
        queries, keys, values = (project(normed).unflatten(-1, (attention.num_heads, -1))
                                 for project in (attention.q_proj, attention.k_proj, attention.v_proj))
        over_time = index % VIDEO["every_n_layers"] == VIDEO["every_n_layers"] - 1
        for frame in range(VIDEO["frames"]):
            for place in (0, 5, before.shape[1] - 1):
                earlier = frame if over_time else 0
                looked_at = [torch.cat([each[frame], each[:earlier, place]]) for each in (keys, values)]
                scores = torch.einsum("hd,khd->hk", queries[frame, place], looked_at[0])
                weights = (scores * attention.head_dim ** -0.5).softmax(-1)
                mixed = torch.einsum("hk,khd->hd", weights, looked_at[1]).flatten()
                wanted = before[frame, place] + attention.out_proj(mixed)
                wanted = wanted + layer.mlp(layer.layer_norm2(wanted))
                assert torch.allclose(after[frame, place], wanted, atol=1e-4), (index, frame, place)


def check_one_way(policy, pre, case):
    """A frame's hidden states are the same to the bit whatever comes after it, and not so whatever came before it."""
    image = policy.prepare_images(batch_of(pre, case))[0][0]
    watch = policy.model.vlm_with_expert.watch
    before = watch(image)[-1]
    for frame in range(VIDEO["frames"]):
        changed = image.clone()
        changed[:, frame] *= -1
        moved = (watch(changed)[-1] - before).abs().amax((0, 2, 3))
        print(f"frame {frame} moves the hidden states of each frame by {moved.tolist()}")
        assert not moved[:frame].any() and (moved[frame:] > MOVES).all()


def check_sensor_tokens(policy, pre, case):
    """The sensors' tokens are what the formula says, stand between the words and the state, and are blocks of their own."""
    batch = batch_of(pre, case)
    words, word_mask = batch["observation.language.tokens"], batch["observation.language.attention_mask"]
    images, image_masks = policy.prepare_images(batch)
    embeds, valid, blocks = policy.model.embed_prefix(images, image_masks, words, word_mask, policy.prepare_state(batch))
    saved = load_file("checkpoint/policy_preprocessor_step_5_normalizer_processor.safetensors")
    mean, std = (saved[f"{reference.SENSORS}.{which}"] for which in ("mean", "std"))
    project, tokens = policy.model.sensor_proj, SENSORS["tokens"]
    run = SENSORS["samples"] // tokens
    for token in range(tokens):
        samples = case["sensors"][token * run : (token + 1) * run]
        flat = torch.cat([(sample - mean) / (std + 1e-8) for sample in samples])
        wanted = project.weight @ flat + project.bias
        assert torch.allclose(embeds[0, token - tokens - 1], wanted, atol=1e-5), token
    state = policy.model.state_proj(SmolVLAPolicy.prepare_state(policy, batch))
    assert torch.equal(embeds[:, -1], state)
    own = tokens + 1
    assert blocks[0, -own:].all() and not blocks[0, :-own].any() and valid[0, -own:].all()
    assert not word_mask.all() and torch.equal(valid[:, -own - words.shape[1] : -own], word_mask)


def check_moves(policy, pre, case):
    """Every frame, every channel, every run of samples and their order move the actions."""
    actions = act(policy, pre, case)

    def moves(what, **changed):
        moved = (act(policy, pre, case | changed) - actions).abs().max().item()
        print(f"{what:<40} moves an action by {moved:.3f}")
        assert moved > MOVES, what

    for camera in CAMERAS:
        key = f"image.{camera}"
        for frame in range(VIDEO["frames"]):
            inverted = case[key].clone()
            inverted[frame] = 255 - inverted[frame]
            moves(f"{camera}: frame {frame}", **{key: inverted})
        for order in ([1, 0, 2], [0, 2, 1]):
            moves(f"{camera}: frames in the order {order}", **{key: case[key][order]})
        for frames in range(1, VIDEO["frames"]):
            moves(f"{camera}: only the newest {frames}", **{key: case[key][-frames:]})
    for channel in range(SENSORS["channels"]):
        moved = case["sensors"].clone()
        moved[:, channel] += 1
        moves(f"sensors: channel {channel}", sensors=moved)
    run = SENSORS["samples"] // SENSORS["tokens"]
    for token in range(SENSORS["tokens"]):
        moved = case["sensors"].clone()
        moved[token * run : (token + 1) * run] += 1
        moves(f"sensors: run {token}", sensors=moved)
    moves("sensors: backwards", sensors=case["sensors"].flip(0))
    moves("sensors: runs in another order", sensors=case["sensors"].roll(run, 0))


def check_plain(policy, pre, case):
    """With the same weights and one frame, LeRobot's own classes say the same, to the bit."""
    weights = {name: weight for name, weight in policy.state_dict().items() if "sensor_proj" not in name}
    noise = case["noise"]
    newest = batch_of(pre, case | {key: case[key][-1:] for key in case if key.startswith("image.")})
    for changes in ({}, {"prefix_length": 80, "pad_language_to": "longest"}):
        theirs, video_only = SmolVLAPolicy(config(**changes)), reference.Policy(config(**changes), VIDEO)
        for plain in (theirs, video_only):
            plain.load_state_dict(weights, strict=True)
            plain.eval().float()
        single = {key: value[:, 0] if "images" in key else value for key, value in newest.items()}
        wanted = theirs.predict_action_chunk(dict(single), noise=noise)
        for batch in (single, newest):
            assert torch.equal(video_only.predict_action_chunk(dict(batch), noise=noise), wanted)
    # A prefix that LeRobot fills up with padding must not change what the sensors say.
    padded = reference.Policy(config(prefix_length=80), VIDEO, SENSORS)
    padded.load_state_dict(policy.state_dict(), strict=True)
    assert torch.allclose(act(padded.eval().float(), pre, case), act(policy, pre, case), atol=1e-4)
    loaded = reference.Policy.load("checkpoint")
    assert torch.equal(act(loaded, pre, case), act(policy, pre, case))
    print("one frame without sensors is LeRobot's to the bit; what was saved loads and says the same")


def write(policy, pre, post, case):
    batch = batch_of(pre, case)
    embeds, velocity = [], []
    denoise = policy.model.denoise_step

    def listening(*positional, **named):
        velocity.append(denoise(*positional, **named).clone())
        return velocity[-1].clone()

    policy.model.denoise_step = listening
    hook = policy.model.vlm_with_expert.get_vlm_model().connector.register_forward_hook(
        lambda _, __, tokens: embeds.append(tokens.clone()))
    normalized = policy.predict_action_chunk(batch, noise=case["noise"])
    hook.remove()
    del policy.model.denoise_step  # the class's own is back
    results = {f"image_embeds.{camera}": tokens for camera, tokens in zip(CAMERAS, embeds, strict=True)}
    results |= {"tokens": batch["observation.language.tokens"],
                "token_mask": batch["observation.language.attention_mask"], "velocity": torch.stack(velocity),
                "actions_normalized": normalized, "actions": post(normalized.clone())}
    for frames in range(1, VIDEO["frames"]):
        fewer = case | {key: case[key][-frames:] for key in case if key.startswith("image.")}
        results[f"actions.newest_{frames}"] = post(act(policy, pre, fewer))
    save_file({name: tensor.contiguous() for name, tensor in (case | results).items()}, "case.safetensors")
    about = {"task": TASK, "cameras": CAMERAS, "missing": [], "frames": VIDEO["frames"],
             "steps": policy.config.num_steps, "chunk": policy.config.chunk_size}
    pathlib.Path("case.json").write_text(json.dumps(about, indent=1))
    print({name: list(tensor.shape) for name, tensor in (case | results).items()})
    print(f"actions: deviation {results['actions'].std():.3f}, embeds: {embeds[0].std():.3f}")


if __name__ == "__main__":
    main()
