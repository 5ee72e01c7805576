"""The oracle for what Waza adds to SmolVLA: a short video from each camera, and a window of sensor samples.

LeRobot has neither, so these are LeRobot's own classes with a few methods replaced. A policy without sensors that is
given one frame a camera takes LeRobot's path, and its result is LeRobot's to the bit.

`config.json` says what a checkpoint has; a field left out means that the checkpoint is an ordinary one:

    "video":   {"frames": T, "every_n_layers": n}
    "sensors": {"channels": C, "samples": S, "tokens": K}

Video. A camera gives up to T frames, oldest first. Each frame's patches get a code for the frame's age added to them
(`age_codes`). In every n-th layer of the vision tower a patch also sees the same place in the earlier frames of its
camera. The frames before the newest end there: the prefix is as long as it is for one frame. There are no weights in it.

Sensors. S samples of C channels, oldest first, are normalised a channel and cut into K runs. `model.sensor_proj` makes a
token of each run. The tokens stand before the state token, each a block of its own as the state is: it sees what stands
before it, and neither the images nor the words see it.
"""
import json
import os
import pathlib
import tempfile

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy, VLAFlowMatching
from lerobot.policies.smolvla.smolvlm_with_expert import SmolVLMWithExpertModel
from torch import nn

SENSORS = "observation.sensors"
EXTENSIONS = ("video", "sensors")


class Policy(SmolVLAPolicy):
    """A batch holds `observation.images.<camera>` as [B, frames, 3, H, W] and `observation.sensors` as [B, S, C],
    normalised."""

    name = "smolvla"

    def __init__(self, config, video=None, sensors=None):
        super().__init__(config)
        self.video, self.sensors = video, sensors
        # LeRobot makes the parts itself, so they get their new methods here.
        self.model.__class__ = Model
        self.model.vlm_with_expert.__class__ = Vlm
        self.model.sensors = sensors
        self.model.vlm_with_expert.every_n_layers = video["every_n_layers"] if video else None
        if sensors:
            run, ragged = divmod(sensors["samples"], sensors["tokens"])
            if ragged:
                raise ValueError(f"{sensors['samples']} samples do not make {sensors['tokens']} runs of one length")
            width = self.model.vlm_with_expert.config.text_config.hidden_size
            self.model.sensor_proj = nn.Linear(run * sensors["channels"], width, device=config.device)

    @classmethod
    def load(cls, folder):
        """What `save_pretrained` left in `folder`. A relative `vlm_model_name` is taken from the working directory."""
        folder = pathlib.Path(folder)
        fields = json.loads((folder / "config.json").read_text())
        extensions = {name: fields.pop(name, None) for name in EXTENSIONS}
        with tempfile.TemporaryDirectory() as plain:  # LeRobot refuses fields that it does not know
            pathlib.Path(plain, "config.json").write_text(json.dumps(fields))
            config = PreTrainedConfig.from_pretrained(plain)
        return cls.from_pretrained(folder, config=config, strict=True, **extensions)

    def _save_pretrained(self, save_directory):
        super()._save_pretrained(save_directory)
        path = pathlib.Path(save_directory, "config.json")
        fields = json.loads(path.read_text())
        fields |= {name: getattr(self, name) for name in EXTENSIONS if getattr(self, name)}
        path.write_text(json.dumps(fields, indent=4))

    def prepare_images(self, batch):
        """As LeRobot's, but a camera that has several frames keeps them: its images are [B, frames, 3, H, W]."""
        if not self.video:
            return super().prepare_images(batch)
        present = [key for key in self.config.image_features if key in batch]
        videos = {key: batch[key][:, -self.video["frames"]:] for key in present if batch[key].ndim == 5}
        images, masks = super().prepare_images(batch | {key: video.flatten(0, 1) for key, video in videos.items()})
        size = batch["observation.state"].shape[0]
        for at, key in enumerate(present):
            if key in videos:
                images[at] = images[at].unflatten(0, videos[key].shape[:2])
        # LeRobot makes one mask an image; all frames of a camera share theirs. Cameras that are not there need one frame.
        images[len(present):] = [image[:size] for image in images[len(present):]]
        return images, [mask[:size] for mask in masks]

    def prepare_state(self, batch):
        """The sensors' window rides behind the state, because LeRobot's code hands one tensor on."""
        state = super().prepare_state(batch)
        return torch.cat([state, batch[SENSORS].flatten(1)], dim=1) if self.sensors else state


class Model(VLAFlowMatching):
    def embed_prefix(self, images, img_masks, lang_tokens, lang_masks, state=None):
        if not self.sensors:
            return super().embed_prefix(images, img_masks, lang_tokens, lang_masks, state=state)
        state, window = state.split([self.config.max_state_dim, state.shape[1] - self.config.max_state_dim], dim=1)
        tokens = self.sensor_proj(window.unflatten(1, (self.sensors["tokens"], -1)))
        # LeRobot makes each token that the state's projection returns a block of its own: all that the sensors need.
        hook = self.state_proj.register_forward_hook(lambda _, __, own: torch.cat([tokens, own[:, None]], dim=1))
        try:
            return super().embed_prefix(images, img_masks, lang_tokens, lang_masks, state=state)
        finally:
            hook.remove()


class Vlm(SmolVLMWithExpertModel):
    def embed_image(self, image):
        """The tokens of one camera's newest frame. `image` is [B, 3, H, W] or [B, frames, 3, H, W]."""
        if image.ndim == 4 or image.shape[1] == 1:
            return super().embed_image(image.flatten(0, -4))
        hidden = self.watch(image)[-1][:, -1]
        vlm = self.get_vlm_model()
        return vlm.connector(vlm.vision_model.post_layernorm(hidden))

    def watch(self, video):
        """All hidden states [B, frames, patches, d]: of the patches as they come in, then as each layer leaves them."""
        tower = self.get_vlm_model().vision_model
        frames, (rows, columns) = video.shape[1], (side // tower.patch_size for side in video.shape[-2:])
        whole = torch.ones(video.shape[0] * frames, rows, columns, dtype=torch.bool, device=video.device)
        hidden = tower.embeddings(video.flatten(0, 1).to(tower.dtype), whole).unflatten(0, video.shape[:2])
        hidden = hidden + age_codes(frames, hidden.shape[-1]).to(hidden)[:, None]
        seen = [hidden]
        hides = hidden_places(frames, rows * columns).to(hidden)
        for index, layer in enumerate(tower.encoder.layers):
            if index % self.every_n_layers == self.every_n_layers - 1:
                # Apart from attention a layer treats every patch alone, so the frames pass as one long sequence.
                hidden = layer(hidden.flatten(1, 2), hides).unflatten(1, hidden.shape[1:3])
            else:
                hidden = layer(hidden.flatten(0, 1), None).unflatten(0, hidden.shape[:2])
            seen.append(hidden)
        return seen


def age_codes(frames, width):
    """What is added to the patches of each frame, [frames, width], oldest frame first. The newest gets 0, so that one
    frame alone is an ordinary image."""
    age = torch.arange(frames - 1, -1, -1, dtype=torch.float64)[:, None]
    angle = age * 10000.0 ** (-torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    return torch.cat([angle.sin(), angle.cos() - 1], dim=1).float()


def hidden_places(frames, patches):
    """The mask [1, 1, frames * patches, frames * patches] that attention adds: 0 where a patch (row) may look, which is
    at its own frame and at its own place in earlier frames, and -inf elsewhere."""
    frame = torch.arange(frames).repeat_interleave(patches)
    place = torch.arange(patches).repeat(frames)
    own_frame = frame[:, None] == frame
    own_place_before = (place[:, None] == place) & (frame[:, None] > frame)
    return torch.zeros(1, 1, len(frame), len(frame)).masked_fill(~(own_frame | own_place_before), -torch.inf)
