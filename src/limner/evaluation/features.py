"""Feature networks: what turns images into the vectors that distances are measured in.

    the judge's        64 features of a classifier; sees what matters for classes, blind to much else
    RandomFeatures     64 features of a network that has learned nothing: the control that sees such defects
    Inception          2,048 features of the network of published FIDs; its weights have to be fetched first
    Clip               the image half of CLIP, and its score of image against text

Each has a name and a hash, which go into every score. `FeatureCache` keeps what was computed. Next: `distances.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import uuid
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F

from limner.errors import EvaluationError, MissingError
from limner.evaluation.distances import Features

INCEPTION_ENV = "LIMNER_INCEPTION"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"


class FeatureNetwork(Protocol):
    """Whatever turns images [N, C, H, W] uint8 into features [N, D] float64."""

    @property
    def name(self) -> str:
        """What reports call it."""

    @property
    def sha256(self) -> str:
        """Of its weights."""

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, D] float64 of images [N, C, H, W] uint8."""


class RandomFeatures:
    """A convolutional network with random weights, the same for ever: 64 features, means and spreads of 32 maps at
    three scales.

    The filters of the first two layers sum to 0: they see edges and grain, not brightness, which `measures.tones`
    tells.

    Arguments:
        channels: of the images. seed: which of the random networks.
    """

    name = "random-conv"

    def __init__(self, channels: int, *, seed: int = 0) -> None:
        random = np.random.Generator(np.random.PCG64(seed))  # numpy promises this stream; torch promises none
        self.weights = []
        inputs = channels
        for depth, outputs in enumerate((8, 8, 16)):
            weight = random.standard_normal((outputs, inputs, 3, 3))
            if depth < 2:
                weight -= weight.mean(axis=(2, 3), keepdims=True)
            self.weights.append(torch.from_numpy((weight * np.sqrt(2 / (9 * inputs))).astype(np.float32)))
            inputs = outputs
        self.sha256 = hashlib.sha256(b"".join(weight.numpy().tobytes() for weight in self.weights)).hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, 64] float64 of images [N, C, H, W] uint8. Raises: EvaluationError for other types."""
        require_images(images)
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 256):
                x = torch.from_numpy(np.array(images[start : start + 256])).float() / 127.5 - 1
                pooled = []
                for depth, weight in enumerate(self.weights):
                    x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, stride=2 if depth else 1)
                    x = F.leaky_relu(x, 0.2)
                    pooled += [x.mean((2, 3)), x.std((2, 3), correction=0)]
                found.append(torch.cat(pooled, 1).double().numpy())
        return np.concatenate(found)


class Inception:
    """The network of published FIDs, through torchmetrics and torch-fidelity: 2,048 features.

    Arguments:
        path: of the weights; without it, the environment variable LIMNER_INCEPTION, then torch's hub folder.
    Raises: MissingError saying what to install or to download, and where to put it; EvaluationError for another file.
    """

    name = "inception-2048"

    def __init__(self, path: Path | None = None) -> None:
        given = path or os.environ.get(INCEPTION_ENV)
        file = Path(given) if given else Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION_FILE
        if not file.is_file():
            raise MissingError(
                f"the Inception weights are not at {file}. Download (91 MB)\n  {INCEPTION_URL}\n"
                f"and put the file there, or say where it is: {INCEPTION_ENV}=/path/to/{INCEPTION_FILE}"
            )
        with file.open("rb") as stream:
            self.sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if not self.sha256.startswith("6726825d"):  # it is a pickle: only the one file everybody uses is opened
            raise EvaluationError(f"{file}: not the Inception weights of published FIDs: its SHA-256 does not start with 6726825d.")
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"], str(file))
        except ModuleNotFoundError as error:
            raise MissingError(
                "Inception features need torchmetrics and torch-fidelity: pip install torchmetrics torch-fidelity"
            ) from error

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, 2048] float64 of images [N, C, H, W] uint8; grey images are given three equal channels."""
        require_images(images)
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 64):
                batch = torch.from_numpy(np.array(images[start : start + 64]))
                found.append(self.network(batch.expand(-1, 3, -1, -1)).double().numpy())
        return np.concatenate(found)


class Clip:
    """CLIP from a local folder or the hub: image features, and the score of an image against its caption.

    Arguments:
        name: a folder, or a hub name such as openai/clip-vit-base-patch32.
    Raises: MissingError when transformers or the weights are not there.
    """

    def __init__(self, name: str = "openai/clip-vit-base-patch32") -> None:
        try:
            from transformers import AutoTokenizer, CLIPImageProcessor, CLIPModel  # heavy, and optional

            self.model: Any = CLIPModel.from_pretrained(name, use_safetensors=True).eval()
            self.processor: Any = CLIPImageProcessor.from_pretrained(name)
            self.tokenizer: Any = AutoTokenizer.from_pretrained(name)
        except ImportError as error:
            raise MissingError("CLIP needs transformers: pip install 'limner[hub]'") from error
        except (OSError, ValueError) as error:
            raise MissingError(
                f"CLIP {name!r} cannot be loaded: {str(error).splitlines()[0]}\n"
                "Give a folder with config.json, model.safetensors, preprocessor_config.json and the "
                "tokenizer, or a hub name."
            ) from error
        self.name = f"clip-{Path(name).name}"
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            digest.update(key.encode() + value.contiguous().numpy().tobytes())
        self.sha256 = digest.hexdigest()

    def features(self, images: np.ndarray) -> np.ndarray:
        """Return [N, D] float64, unit length, of images [N, C, H, W] uint8; grey ones are given three equal
        channels."""
        require_images(images)
        found = []
        with torch.inference_mode():
            for start in range(0, len(images), 64):
                batch = [np.broadcast_to(image, (3, *image.shape[1:])) for image in images[start : start + 64]]
                pixels = self.processor(images=batch, return_tensors="pt", input_data_format="channels_first")["pixel_values"]
                found.append(_embedding(self.model.get_image_features(pixel_values=pixels)))
        return np.concatenate(found)

    def text_features(self, prompts: list[str]) -> np.ndarray:
        """Return [N, D] float64, unit length, of captions; each distinct one is encoded once."""
        distinct = sorted(set(prompts))
        with torch.inference_mode():
            tokens = self.tokenizer(distinct, padding=True, truncation=True, max_length=77, return_tensors="pt")
            vectors = _embedding(self.model.get_text_features(**tokens))
        place = {prompt: index for index, prompt in enumerate(distinct)}
        return vectors[[place[prompt] for prompt in prompts]]

    def scores(self, images: np.ndarray, prompts: list[str]) -> np.ndarray:
        """Return [N] 100 times the cosine of each image and its caption, not below 0.

        Source: Hessel et al. 2021 (arXiv:2104.08718), with weight 100 as torchmetrics has it.
        """
        return 100 * np.maximum(0, np.einsum("nd,nd->n", self.features(images), self.text_features(prompts)))


def _embedding(output: Any) -> np.ndarray:
    vectors = output if isinstance(output, torch.Tensor) else output.pooler_output
    return F.normalize(vectors.double(), dim=1).numpy()


class FeatureCache:
    """Features on disk, found by the content of the images and the hash of the network, so that no set is read twice.

    Arguments:
        folder: where; None keeps nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder

    def features(self, network: FeatureNetwork, images: np.ndarray) -> Features:
        """Return the network's features of images [N, C, H, W] uint8, from the cache where they are. A bad file is made
        again."""
        if self.folder is None:
            return Features(network.features(images), network.name, network.sha256)
        content = hashlib.sha256(f"{network.name} {network.sha256} {images.shape} {images.dtype} ".encode())
        content.update(np.ascontiguousarray(images).data)
        path = self.folder / f"{content.hexdigest()[:32]}.npy"
        values = None
        with contextlib.suppress(OSError, ValueError, EOFError):
            values = np.load(path, allow_pickle=False)
        if values is None or values.ndim != 2 or len(values) != len(images) or values.dtype != np.float64:
            values = network.features(images)
            self._keep(path, values)
        return Features(values, network.name, network.sha256)

    def _keep(self, path: Path, values: np.ndarray) -> None:
        temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
        with contextlib.suppress(OSError):  # a full disk costs the cache, not the score
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                np.save(file, values)
            temporary.replace(path)
        temporary.unlink(missing_ok=True)


def require_images(images: np.ndarray) -> None:
    """Raise EvaluationError unless `images` is [N, C, H, W] uint8 with N > 0, saying what is wrong (NaN above all)."""
    if images.dtype.kind == "f" and not np.isfinite(images).all():
        raise EvaluationError(
            f"{int((~np.isfinite(images)).any(axis=tuple(range(1, images.ndim))).sum())} images are not finite (NaN)."
        )
    if images.dtype != np.uint8 or images.ndim != 4:
        raise EvaluationError(f"images are [N, C, H, W] uint8, not {list(images.shape)} {images.dtype}.")
    if len(images) == 0:
        raise EvaluationError("there are no images.")
