"""Trains the bundled checkpoint from scratch on demonstrations that the simulator streams. One command:

    python host/model/training/train.py --out RUN_DIR

It builds the demonstrator with cargo, trains on the CPU or, where there is one, a GPU, resumes where RUN_DIR stops,
writes one JSON line of progress a minute to RUN_DIR/log.jsonl, and leaves RUN_DIR/checkpoint, a folder that LeRobot and
Waza load. Seeds are fixed. Needs `lerobot[smolvla]==0.4.4`.
"""
import argparse
import copy
import itertools
import json
import pathlib
import queue
import subprocess
import threading
import time

import numpy as np
import torch
from lerobot.policies.smolvla.modeling_smolvla import make_att_2d_masks
from lerobot.policies.smolvla.processor_smolvla import make_smolvla_pre_post_processors

import policy as bundled
from policy import CHUNK, JOINTS, SIDE

ROOT = pathlib.Path(__file__).resolve().parents[3]
WORDS_BYTES = 48  # INSTRUCTION_BYTES of the demonstrator
STATE_STD_FLOOR = 0.15  # a joint that hardly moves must not have its noise blown up
MAX_WORDS = 8
TAUGHT_LAYERS = (2, 3)
COLOUR_WORD = 2  # "touch the red block"
PIPE_BYTES = 1 << 20  # a few dozen records, so that a demonstrator need not wait for its turn


class Stream:
    """Batches of demonstrations, read from the demonstrators' standard outputs in turn, so that their order depends on
    nothing but the seeds."""

    def __init__(self, arguments, cameras, tokenizer, seed):
        self.cameras, self.tokenizer, self.memo = cameras, tokenizer, {}
        self.record = len(cameras) * SIDE * SIDE * 3 + (JOINTS + CHUNK * JOINTS + len(cameras) * 4) * 4 + WORDS_BYTES
        program = arguments.demonstrator or build_demonstrator()
        # Each holds its share of the samples in the shuffle, so more of them do not start later.
        shuffle = max(1, arguments.shuffle // arguments.demonstrators)
        self.processes = [subprocess.Popen(
            [program, str(seed + index), str(SIDE), str(CHUNK), ",".join(cameras), str(shuffle), str(arguments.touch),
             str(arguments.relabelled)],
            stdout=subprocess.PIPE, bufsize=self.record * 64, pipesize=PIPE_BYTES)
            for index in range(arguments.demonstrators)]
        # A pipe holds less than one batch, so a thread keeps the demonstrators working while the model learns.
        self.ahead = queue.Queue(maxsize=max(2048, 4 * arguments.batch))
        threading.Thread(target=self.read, daemon=True).start()

    def read(self):
        for process in itertools.cycle(self.processes):
            record = process.stdout.read(self.record)
            if len(record) < self.record:
                break
            self.ahead.put(record)
        self.ahead.put(None)

    def batch(self, size, device):
        records = [self.ahead.get() for _ in range(size)]
        if None in records:
            raise RuntimeError("a demonstrator ended early; its message is above")
        raw = b"".join(records)
        raw = np.frombuffer(raw, np.uint8).reshape(size, self.record)
        pixels = len(self.cameras) * SIDE * SIDE * 3
        frames = torch.from_numpy(raw[:, :pixels].reshape(size, len(self.cameras), SIDE, SIDE, 3).copy())
        numbers = raw[:, pixels:-WORDS_BYTES].copy().view("<f4")
        words = [bytes(row).rstrip(b"\0").decode() for row in raw[:, -WORDS_BYTES:]]
        tokens = torch.tensor([self.tokens(text) for text in words])
        state, chunk, points = np.split(numbers, [JOINTS, JOINTS + CHUNK * JOINTS], axis=1)
        return dict(
            images=[frames[:, i].permute(0, 3, 1, 2).to(device).float().div(127.5).sub(1).contiguous()
                    for i in range(len(self.cameras))],
            tokens=tokens.to(device), state=torch.from_numpy(state.copy()).to(device),
            chunk=torch.from_numpy(chunk.reshape(size, CHUNK, JOINTS).copy()).to(device),
            points=torch.from_numpy(points.reshape(size, len(self.cameras), 2, 2).copy()).to(device))

    def tokens(self, text):
        if text not in self.memo:
            ids = self.tokenizer(text + "\n")["input_ids"]
            self.memo[text] = ids + [self.tokenizer.pad_token_id] * (MAX_WORDS - len(ids))
        return self.memo[text]


def build_demonstrator():
    subprocess.run(["cargo", "build", "--release", "-p", "waza-robot", "--example", "demonstrations"], cwd=ROOT, check=True)
    meta = subprocess.run(["cargo", "metadata", "--format-version", "1", "--no-deps"], cwd=ROOT, check=True,
                          capture_output=True, text=True)
    return str(pathlib.Path(json.loads(meta.stdout)["target_directory"]) / "release/examples/demonstrations")


class Learner(torch.nn.Module):
    """One prefix, several draws of noise and time: the vision and language layers are most of the work, and their keys
    and values serve every draw of the expert."""

    def __init__(self, policy, cameras, draws, pad):
        super().__init__()
        self.flow, self.draws, self.pad = policy.model, draws, pad
        self.teachers = torch.nn.ModuleList(bundled.Teacher(cameras) for _ in TAUGHT_LAYERS)
        self.naming = bundled.Naming()
        self.hidden, self.embeds = {}, []
        connector = policy.model.vlm_with_expert.get_vlm_model().connector
        connector.register_forward_hook(lambda _, __, output: self.embeds.append(output))
        for index in TAUGHT_LAYERS:
            norm = policy.model.vlm_with_expert.get_vlm_model().text_model.layers[index].input_layernorm
            norm.register_forward_hook(lambda _, __, output, index=index: self.hidden.__setitem__(index, output))

    def forward(self, images, tokens, state, actions, points, noise, when):
        flow, batch = self.flow, tokens.shape[0]
        mask = tokens != self.pad
        present = [torch.ones(batch, dtype=torch.bool, device=tokens.device)] * len(images)
        embedded, pads, blocks = flow.embed_prefix(images, present, tokens, mask, state=state)
        _, cache = flow.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(pads, blocks), position_ids=torch.cumsum(pads, dim=1) - 1,
            past_key_values=None, inputs_embeds=[embedded, None], use_cache=True, fill_kv_cache=True)
        again = lambda tensor: tensor.repeat_interleave(self.draws, 0)
        cache = {layer: {name: again(value) for name, value in entry.items()} for layer, entry in cache.items()}
        wanted = again(actions)
        noisy = when[:, None, None] * noise + (1 - when[:, None, None]) * wanted
        velocity = flow.denoise_step(again(pads), cache, noisy, when)
        # The padded action dimensions stay out of the loss.
        flow_loss = (velocity - (noise - wanted))[..., :JOINTS].square().mean()
        lessons = [teach(self.hidden.pop(index).float(), points, actions)
                   for index, teach in zip(TAUGHT_LAYERS, self.teachers, strict=True)]
        _, right, miss, plan = lessons[-1]
        naming = sum(self.naming(embeds.float(), points[:, camera, 0], tokens[:, COLOUR_WORD])
                     for camera, embeds in enumerate(self.embeds)) / len(self.embeds)
        self.embeds.clear()
        return flow_loss, naming + sum(loss for loss, *_ in lessons), naming, right, miss, plan


def statistics(stream, samples=8192):
    """Mean and standard deviation of state and action. Both hold joint positions, so both share one."""
    values = torch.cat([torch.cat([b["chunk"].flatten(0, 1), b["state"]]) for b in
                        (stream.batch(256, "cpu") for _ in range(samples // 256))])
    mean, std = values.mean(0), values.std(0).clamp(min=STATE_STD_FLOOR)
    return {key: {"mean": mean, "std": std} for key in ("observation.state", "action")}


def make_optimizers(learner, rate):
    """Muon for the layers' matrices, AdamW for everything else (embeddings, norms, biases, projections in and out)."""
    named = [(name, parameter) for name, parameter in learner.named_parameters() if parameter.requires_grad]
    matrix = lambda name, parameter: parameter.ndim == 2 and ".layers." in name
    return [torch.optim.Muon([p for n, p in named if matrix(n, p)], lr=rate, weight_decay=0.01,
                             adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW([p for n, p in named if not matrix(n, p)], lr=rate, betas=(0.9, 0.95), weight_decay=1e-4)]


def load_state(folder, device):
    """What a run keeps in `folder`. It is read onto the CPU, where the optimizers count their steps: counts on a GPU
    would make the CPU wait for each of them in every step."""
    state = torch.load(folder / "state.pt", map_location="cpu", weights_only=False)
    state["average"] = {name: value.to(device) for name, value in state["average"].items()}
    return state


def pad(tensor, width):
    return torch.nn.functional.pad(tensor, (0, width - tensor.shape[-1]))


def export(folder, policy, stats, weights):
    """A checkpoint as LeRobot saves it; `vlm/` is there already."""
    copied = copy.deepcopy(policy.model.state_dict())
    policy.model.load_state_dict(weights)
    before, after = make_smolvla_pre_post_processors(policy.config, stats)
    for part in (policy, before, after):
        part.save_pretrained(folder)
    policy.model.load_state_dict(copied)


def main():
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    path = lambda text: pathlib.Path(text).resolve()  # now, because `build` changes the working directory
    options.add_argument("--out", required=True, type=path)
    options.add_argument("--samples", type=int, default=480_000, help="length of the run; the learning rate ends at 0 with it")
    options.add_argument("--minutes", type=float, default=float("inf"), help="end after that long at the latest")
    options.add_argument("--batch", type=int, default=32)
    options.add_argument("--draws", type=int, default=3, help="draws of noise and time a sample")
    options.add_argument("--rate", type=float, default=1e-3, help="highest learning rate")
    options.add_argument("--lessons", type=float, default=0.3, help="weight of the training aids beside flow matching")
    options.add_argument("--bf16-until", type=float, default=0.85, help="share of the run in bf16; the rest is f32")
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--touch", type=float, default=0.5, help="share of touch tasks")
    options.add_argument("--relabelled", type=float, default=0.7, help="share of samples that ask for another task")
    options.add_argument("--cameras", default="front")
    options.add_argument("--shuffle", type=int, default=8192)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--demonstrator", type=path, help="a built demonstrator; by default cargo builds it")
    options.add_argument("--demonstrators", type=int, default=1, help="how many run at once, each on one core")
    options.add_argument("--compile", action="store_true", help="torch.compile the training step")
    options.add_argument("--start", type=path, help="begin with another run's weights")
    arguments = options.parse_args()
    if not 1 <= arguments.demonstrators <= 1000:
        options.error("--demonstrators takes 1 to 1000: a resumed run's seeds begin 1000 further on")
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(arguments.threads)

    cameras = arguments.cameras.split(",")
    policy, tokenizer = bundled.build(out / "checkpoint", cameras)
    learner = Learner(policy, len(cameras), arguments.draws, tokenizer.pad_token_id).to(device)
    trained = [parameter for parameter in learner.parameters() if parameter.requires_grad]
    optimizers = make_optimizers(learner, arguments.rate)
    average = copy.deepcopy(policy.model.state_dict())
    done, runs, stats = 0, 0, None
    kept = out / "state.pt"
    if kept.exists():
        state = load_state(out, device)
        learner.load_state_dict(state["learner"])
        for optimizer, kept_state in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept_state)
        average, stats, done, runs = state["average"], state["stats"], state["done"], state["runs"] + 1
        torch.manual_seed(arguments.seed + 1000 * runs)
        print(f"resuming after {done} samples")
    elif arguments.start:
        state = load_state(arguments.start, device)
        learner.load_state_dict(state["learner"], strict=False)
        average, stats = state["average"], state["stats"]

    # A resumed run sees new episodes, not the first ones again.
    stream = Stream(arguments, cameras, tokenizer, arguments.seed + 1000 * runs)
    if stats is None:
        stats = statistics(stream)
    mean, std = stats["action"]["mean"].to(device), stats["action"]["std"].to(device)
    wide = policy.config.max_action_dim
    step = torch.compile(learner) if arguments.compile else learner
    sums, batches, begun = {}, 0, time.time()
    since = last_save = begun
    learner.train()
    with open(out / "log.jsonl", "a", buffering=1) as log:
        progress = done / arguments.samples
        while progress < 1:
            warm = min(1.0, done / (150 * arguments.batch))
            for group in (group for optimizer in optimizers for group in optimizer.param_groups):
                group["lr"] = arguments.rate * warm * (1 - progress)
            batch = stream.batch(arguments.batch, device)
            size = arguments.batch * arguments.draws
            noise = torch.randn(size, CHUNK, wide, device=device)
            when = torch.distributions.Beta(1.5, 1.0).sample((size,)).to(device) * 0.999 + 0.001
            # bf16 matrix products with f32 weights and sums: 1.5 times the speed on a CPU that has them.
            with torch.autocast(device, dtype=torch.bfloat16, enabled=progress < arguments.bf16_until):
                flow, taught, naming, right, miss, plan = step(
                    batch["images"], batch["tokens"],
                    pad((batch["state"] - mean) / (std + 1e-8), policy.config.max_state_dim),
                    pad((batch["chunk"] - mean) / (std + 1e-8), wide), batch["points"], noise, when)
            learner.zero_grad(set_to_none=True)
            (flow + arguments.lessons * taught).backward()
            torch.nn.utils.clip_grad_norm_(trained, 1.0)
            for optimizer in optimizers:
                optimizer.step()
            done += arguments.batch
            progress = max(done / arguments.samples, (time.time() - begun) / 60 / arguments.minutes)
            keep = min(0.999, done / (done + 10 * arguments.batch))
            with torch.no_grad():
                for name, value in policy.model.state_dict().items():
                    average[name].lerp_(value, 1 - keep) if value.is_floating_point() else average[name].copy_(value)
            # Summed where they are: to read one would make the CPU wait for the GPU.
            shown = dict(flow=flow, taught=taught, naming=naming, right=right, miss=miss, plan=plan)
            sums = {name: sums.get(name, 0.0) + value.detach().double() for name, value in shown.items()}
            batches += 1
            if time.time() - since > 60 or progress >= 1:
                line = {name: round(float(value) / batches, 4) for name, value in sums.items()}
                rate = round(batches * arguments.batch / (time.time() - since), 1)
                line = {"samples": done, "rate": rate} | line
                log.write(json.dumps(line) + "\n")
                print(line, flush=True)
                sums, batches, since = {}, 0, time.time()
            if time.time() - last_save > 300 or progress >= 1:
                state = dict(learner=learner.state_dict(), optimizers=[optimizer.state_dict() for optimizer in optimizers],
                             average=average, stats=stats, done=done, runs=runs)
                torch.save(state, kept.with_suffix(".new"))
                kept.with_suffix(".new").replace(kept)
                export(out / "checkpoint", policy, stats, average)
                last_save = time.time()
    for process in stream.processes:
        process.kill()


if __name__ == "__main__":
    main()
