"""Writes a language model in a second: `tiny_model.py TEXT OUT.gguf`.

It is an exact character-bigram model in the form of a Llama: a token is a byte, its embedding is one-hot, attention and
feed-forward are zero, and the output matrix holds the logarithm of how often one byte follows another in TEXT. So what
llama.cpp computes from it is the table itself, the same on every machine. Nothing is trained or downloaded.
"""

import sys
from pathlib import Path

import gguf
import numpy as np

BYTES = 256
START, END, PAD = range(BYTES, BYTES + 3)
VOCABULARY = BYTES + 3
# One dimension per token, rounded up to whole heads.
HEAD = 64
HEADS = -(-VOCABULARY // HEAD)
WIDTH = HEADS * HEAD
FEED_FORWARD = 64
EPSILON = 1e-5
CONTEXT = 1 << 15
# Of the text's end after a full stop, its only place.
END_PROBABILITY = 0.2
# What never happens has a logarithm too.
NEVER = 1e-9


def byte_tokens() -> list[str]:
    """The characters by which GPT-2's byte-level vocabulary spells the bytes 0 to 255."""
    itself = [byte for byte in range(BYTES) if chr(byte).isprintable() and byte not in b" \xa0\xad"]
    others = iter(range(BYTES, 2 * BYTES))
    return [chr(byte) if byte in itself else chr(next(others)) for byte in range(BYTES)]


def log_probabilities(text: bytes) -> np.ndarray:
    """For each token, the logarithm of each next one's probability; that of a byte not in TEXT is the average."""
    codes = np.frombuffer(text, np.uint8)
    pairs = np.zeros((VOCABULARY, VOCABULARY))
    np.add.at(pairs, (codes[:-1], codes[1:]), 1)
    overall = pairs.sum(axis=0) / pairs.sum()
    pairs += 0.1 * overall
    probabilities = pairs / pairs.sum(axis=1, keepdims=True)
    probabilities[ord("."), END] = END_PROBABILITY
    return np.log(np.maximum(probabilities, NEVER)).astype(np.float32)


def tensors(text: bytes) -> dict[str, np.ndarray]:
    embedding = np.zeros((VOCABULARY, WIDTH), np.float32)
    np.fill_diagonal(embedding, 1)
    output = np.zeros((VOCABULARY, WIDTH), np.float32)
    output[:, :VOCABULARY] = log_probabilities(text).T
    # The last norm divides by the root of the mean square: this brings the one-hot's 1 back.
    undo = np.full(WIDTH, np.sqrt(1 / WIDTH + EPSILON), np.float32)
    square = np.zeros((WIDTH, WIDTH), np.float32)
    wide = np.zeros((FEED_FORWARD, WIDTH), np.float32)
    norm = np.ones(WIDTH, np.float32)
    return {
        "token_embd.weight": embedding,
        "output_norm.weight": undo,
        "output.weight": output,
        "blk.0.attn_norm.weight": norm,
        **{f"blk.0.attn_{part}.weight": square for part in ("q", "k", "v", "output")},
        "blk.0.ffn_norm.weight": norm,
        "blk.0.ffn_gate.weight": wide,
        "blk.0.ffn_up.weight": wide,
        "blk.0.ffn_down.weight": wide.T.copy(),
    }


def write(text: bytes, path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("bigrams")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(byte_tokens() + ["<s>", "</s>", "<pad>"])
    writer.add_token_types([gguf.TokenType.NORMAL] * BYTES + [gguf.TokenType.CONTROL] * 3)
    # llama.cpp wants one: of two bytes that no UTF-8 has.
    writer.add_token_merges(["ÿ ÿ"])
    writer.add_bos_token_id(START)
    writer.add_eos_token_id(END)
    writer.add_pad_token_id(PAD)
    writer.add_add_bos_token(False)
    for name, values in tensors(text).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    # Runs of blanks would make a blank the likeliest to follow a blank.
    words = Path(sys.argv[1]).read_bytes().split()
    write(b" ".join(words), Path(sys.argv[2]))
