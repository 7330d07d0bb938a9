"""Small tokenizers of the two kinds that published models have, whose tokens are parts of words and bytes."""

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXTS = ["The capital of Texas is Austin.", "A dog, a cat and a house:\n\tone two three"] * 20


def byte_level(*special: str, bos: str | None = None, template: str | None = None) -> PreTrainedTokenizerFast:
    """As GPT-2's and its successors'."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=320, special_tokens=[*special], initial_alphabet=alphabet)
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
