"""A Whisper of the size of OpenAI's tiny.en that says twelve words to whatever it hears: for timing, not for words.

Width, layers, heads and vocabulary are those of tiny.en (Radford et al. 2022, https://arxiv.org/abs/2212.04356), the
weights are random but for the decoder's positions: each is close to the embedding of one token, so that decoding takes
as many steps as a sentence of nine words does. Arithmetic does not depend on what the numbers are, so it costs what
tiny.en costs.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from whisper_demo import SPECIAL_TOKENS, TIMESTAMP_TOKENS, build_model, save, token_id

VOCABULARY = 51_864
WORDS = ["i", "did", "not", "expect", "to", "see", "you", "here", "so", "early", "this", "morning"]
#: Decoder positions before the first word: start of transcript, no timestamps. The first word is said at the last.
PROMPT = 2
#: Deviation of the tokens' embeddings: large enough for the wanted token to have nearly all of the probability.
DEVIATION = 0.06


def write_tiny_en(folder: Path) -> None:
    """Write the model as a CTranslate2 folder for faster-whisper."""
    vocabulary = ["<unk>", *(f"Ġ{word}" for word in WORDS)]
    fillers = VOCABULARY - TIMESTAMP_TOKENS - len(SPECIAL_TOKENS) - len(vocabulary)
    vocabulary += [f"filler{number}" for number in range(fillers)]
    tokenizer = Tokenizer(models.WordLevel({token: number for number, token in enumerate(vocabulary)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    torch.manual_seed(0)
    model = build_model(tokenizer, width=384, layers=4, heads=6)
    decoder = model.model.decoder
    with torch.no_grad():
        decoder.embed_tokens.weight.normal_(0.0, DEVIATION)
        said = torch.tensor(
            [*(tokenizer.token_to_id(f"Ġ{word}") for word in WORDS), token_id(tokenizer, "<|endoftext|>")]
        )
        # So large that what the layers add does not matter.
        decoder.embed_positions.weight[PROMPT - 1 : PROMPT - 1 + len(said)] = 1000 * decoder.embed_tokens.weight[said]
    save(model, tokenizer, folder)
