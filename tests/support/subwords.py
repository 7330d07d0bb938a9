"""Small tokenizers of the two kinds that published models have, whose tokens are parts of words and bytes."""

import json
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["The capital of Texas is Austin.", "A dog, a cat and a house:\n\tone two three"] * 20


def byte_level(
    *special: str, bos: str | None = None, template: str | None = None, more: Sequence[str] = ()
) -> PreTrainedTokenizerFast:
    """As GPT-2's and its successors'; learnt from some texts, and from more."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        [*TEXTS, *more], trainers.BpeTrainer(vocab_size=320, special_tokens=[*special], initial_alphabet=alphabet)
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, **({} if bos is None else {"bos_token": bos}))
    tokenizer.chat_template = template
    return tokenizer


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: words keep their space as a letter of its own, and unknown characters become bytes."""
    inner = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first")
    names = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    inner.train_from_iterator(TEXTS, trainers.BpeTrainer(vocab_size=420, special_tokens=names))
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")


def unigram() -> PreTrainedTokenizerFast:
    """As T5's and Gemma's: pieces with probabilities; unknown characters become bytes."""
    inner = Tokenizer(models.Unigram())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    inner.train_from_iterator(
        TEXTS, trainers.UnigramTrainer(vocab_size=60, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    )
    state = json.loads(inner.to_str())
    state["model"]["byte_fallback"] = True
    state["model"]["vocab"] += [[f"<0x{byte:02X}>", -20.0] for byte in range(256)]
    inner = Tokenizer.from_str(json.dumps(state))
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme="always")])
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")


def word_pieces(*, ends: bool = False) -> PreTrainedTokenizerFast:
    """As BERT's, which marks pieces that continue a word; with `ends` as GPT-1's, which marks the ends of words."""
    texts = [*TEXTS, *["playing player plays the play"] * 9]
    if ends:
        inner = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
        inner.decoder = decoders.BPEDecoder()
        trainer = trainers.BpeTrainer(vocab_size=99, special_tokens=["<unk>"], end_of_word_suffix="</w>")
    else:
        inner = Tokenizer(models.WordPiece(unk_token="<unk>"))
        inner.decoder = decoders.WordPiece()
        trainer = trainers.WordPieceTrainer(vocab_size=99, special_tokens=["<unk>"])
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
