"""The bundled policy: LeRobot's own SmolVLA at a size that two CPU cores can train, with a word-level vocabulary.

Nothing here is a new architecture. `build` makes an untrained `SmolVLAPolicy` whose folder LeRobot loads like any other;
`Pointing` is a training aid that never enters the checkpoint's action path.
"""
import os
import pathlib

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (PreTrainedTokenizerFast, SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor,
                          SmolVLMVideoProcessor)

WORDS = ("touch tap press put place drop the block in bowl red green blue yellow purple").split()
SPECIAL = ["<unk>", "<pad>", "<bos>", "<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>"]
JOINTS = 6
CHUNK = 16
SIDE = 96
PATCH = 12
SHUFFLE = 2  # pixel shuffle: 64 patches become 16 tokens

TEXT = dict(model_type="llama", hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, head_dim=32, vocab_size=len(SPECIAL) + len(WORDS), rope_theta=10000.0,
            max_position_embeddings=512, rms_norm_eps=1e-5)
VISION = dict(hidden_size=128, intermediate_size=384, num_hidden_layers=4, num_attention_heads=4, image_size=SIDE,
              patch_size=PATCH)
TOKENS_PER_IMAGE = (SIDE // PATCH // SHUFFLE) ** 2


def save_vlm(folder, text=TEXT, vision=VISION, shuffle=SHUFFLE, words=WORDS):
    """The VLM config and the tokenizer that the checkpoint names by reference."""
    vocabulary = {word: index for index, word in enumerate(SPECIAL + words)}
    tokens = Tokenizer(models.WordLevel(vocab=vocabulary, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, bos_token="<bos>", eos_token="<end_of_utterance>", pad_token="<pad>", unk_token="<unk>",
        extra_special_tokens={"fake_image_token": "<fake_token_around_image>", "image_token": "<image>",
                              "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"})
    SmolVLMConfig(text_config=text, vision_config=vision, scale_factor=shuffle,
                  image_token_id=vocabulary["<image>"], pad_token_id=vocabulary["<pad>"]).save_pretrained(folder)
    tokens_per_image = (vision["image_size"] // vision["patch_size"] // shuffle) ** 2
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor(),
                     image_seq_len=tokens_per_image).save_pretrained(folder)
    return tokenizer


def build(folder, cameras):
    """An untrained policy in `folder`, which afterwards also holds `vlm/`. Call with `folder` as the working directory's
    target: LeRobot resolves the relative name `vlm` against the working directory, and so the checkpoint stays movable."""
    folder = pathlib.Path(folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    tokenizer = save_vlm("vlm")
    inputs = {f"observation.images.{camera}": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE)) for camera in cameras}
    inputs["observation.state"] = PolicyFeature(FeatureType.STATE, (JOINTS,))
    config = SmolVLAConfig(
        input_features=inputs, output_features={"action": PolicyFeature(FeatureType.ACTION, (JOINTS,))}, device="cpu",
        vlm_model_name="vlm", push_to_hub=False, load_vlm_weights=False, freeze_vision_encoder=False,
        train_expert_only=False, num_vlm_layers=TEXT["num_hidden_layers"], resize_imgs_with_padding=(SIDE, SIDE),
        expert_width_multiplier=0.75, chunk_size=CHUNK, n_action_steps=CHUNK // 2, max_state_dim=8, max_action_dim=8,
        tokenizer_max_length=16, num_steps=10)
    policy = SmolVLAPolicy(config)
    model = policy.model
    # LeRobot freezes the last text layer, because with frozen-VLM training nothing flows through it; here pointing does.
    model.requires_grad_(True)
    model.vlm_with_expert.vlm.lm_head.requires_grad_(False)
    embed = model.vlm_with_expert.get_vlm_model().vision_model.embeddings
    # The stock forward finds each patch's position in a Python loop over the batch. All images are whole squares, so the
    # ids that it finds once hold for all: 0, 0, 1, ... n - 2 along each side, not 0 to n - 1.
    found = []
    hook = embed.position_embedding.register_forward_hook(lambda _, ids, __: found.append(ids[0]))
    embed(torch.zeros(1, 3, SIDE, SIDE), torch.ones(1, SIDE // PATCH, SIDE // PATCH, dtype=torch.bool))
    hook.remove()
    embed.register_buffer("places", found[0], persistent=False)  # it moves to a GPU with the weights
    embed.forward = lambda pixel_values, patch_attention_mask=None: (
        embed.patch_embedding(pixel_values).flatten(2).transpose(1, 2) + embed.position_embedding(embed.places))
    # Embeddings are scaled by sqrt(d) on their way in, so they start small.
    scale = TEXT["hidden_size"] ** -0.5
    nn.init.normal_(model.vlm_with_expert.get_vlm_model().text_model.embed_tokens.weight, std=scale)
    nn.init.normal_(model.vlm_with_expert.get_vlm_model().connector.modality_projection.proj.weight,
                    std=scale * (VISION["hidden_size"] * SHUFFLE ** 2) ** -0.5)
    nn.init.normal_(embed.position_embedding.weight, std=0.02)
    return policy, tokenizer


def cells(points):
    """The image token that each point falls on, and its cell's column and row. Points in 0..1, or negative where not in
    view."""
    side = int(TOKENS_PER_IMAGE ** 0.5)
    cell = (points.clamp(0, 0.9999) * side).long()
    return cell[..., 1] * side + cell[..., 0], cell


class Naming(nn.Module):
    """A training aid on the image embeddings: the token that shows the named object says the word for its colour."""

    def __init__(self):
        super().__init__()
        self.word = nn.Linear(TEXT["hidden_size"], TEXT["vocab_size"])

    def forward(self, embeds, point, word):
        """embeds [B, tokens, d] of one camera, point [B, 2], word [B] token ids."""
        at, _ = cells(point)
        shown = embeds[torch.arange(len(at), device=at.device), at]
        seen = (point >= 0).all(-1)
        return nn.functional.cross_entropy(self.word(shown), torch.where(seen, word, -100), ignore_index=-100)


class Teacher(nn.Module):
    """Training aids, read off the hidden states that a language layer's keys and values are made from, which is all that
    the expert ever sees of them. Pointing: where the named object and the bowl are, as a cell (cross-entropy over image
    tokens), the place within the cell, and, off the state token, the place in the image. Planning: the chunk itself, off
    the state token. Flow matching alone learns both far more slowly."""

    def __init__(self, cameras):
        super().__init__()
        width = TEXT["hidden_size"]
        self.cells, self.within, self.whole = nn.Linear(width, 2), nn.Linear(width, 4), nn.Linear(width, 4 * cameras)
        self.plan = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, CHUNK * JOINTS))

    def forward(self, hidden, points, actions):
        """hidden [B, tokens, d]; points [B, cameras, 2 objects, 2] in 0..1, or negative where not in view; actions
        [B, chunk, joints], normalised. Returns the loss and, for the log, the share of right cells, the mean distance in
        the image and the plan's mean error."""
        batch, cameras = points.shape[:2]
        side = int(TOKENS_PER_IMAGE ** 0.5)
        seen = (points >= 0).all(-1)  # [B, cameras, 2]
        index, cell = cells(points)  # [B, cameras, 2], [B, cameras, 2, 2]
        image = hidden[:, : cameras * TOKENS_PER_IMAGE].reshape(batch, cameras, TOKENS_PER_IMAGE, -1)
        logits = self.cells(image).log_softmax(2)  # over the tokens of a camera
        found = logits.gather(2, index[:, :, None, :]).squeeze(2)  # [B, cameras, 2]
        within = self.within(image).reshape(batch, cameras, TOKENS_PER_IMAGE, 2, 2)
        at = index[:, :, None, :, None].expand(-1, -1, 1, -1, 2)
        offset = within.gather(2, at).squeeze(2) - (points * side - cell - 0.5)
        whole = self.whole(hidden[:, -1]).reshape(points.shape) - (points - 0.5) * 2
        plan = self.plan(hidden[:, -1]).reshape(batch, CHUNK, JOINTS) - actions[..., :JOINTS]
        weight = seen.float()
        total = weight.sum().clamp(min=1)
        right = ((logits.argmax(2) == index).float() * weight).sum() / total
        loss = 4 * (-found * weight).sum() / total
        loss = loss + 2 * (offset.abs().mean(-1) * weight).sum() / total
        loss = loss + 4 * (whole.abs().mean(-1) * weight).sum() / total
        loss = loss + 5 * plan.abs().mean()
        miss = ((whole.detach() / 2).norm(dim=-1) * weight).sum() / total
        return loss, right, miss, plan.detach().abs().mean()
