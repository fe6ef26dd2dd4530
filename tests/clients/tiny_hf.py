"""The tiny model as Hugging Face's libraries and vLLM read it: `tiny_hf.py TEXT FOLDER`. A token is a byte."""

import json
import sys
from pathlib import Path

import tiny_model

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
# Of a layer, and of the rest.
LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
NAMES = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
    **{f"blk.0.{ours}.weight": f"model.layers.0.{theirs}.weight" for ours, theirs in LAYER.items()},
}


def write_tokenizer(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    spelled = tiny_model.byte_tokens()
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = enumerate(SPECIAL.values(), tiny_model.BYTES)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{"id": number, "content": name, **plain} for number, name in names],
        "pre_tokenizer": level,
        "decoder": level,
        "model": {"type": "BPE", "vocab": {token: number for number, token in enumerate(spelled)}, "merges": []},
    }
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": tiny_model.CONTEXT}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({**kind, **SPECIAL}))


def write(text: bytes, folder: Path) -> None:
    write_tokenizer(folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "dtype": "float32",
        "vocab_size": tiny_model.VOCABULARY,
        "hidden_size": tiny_model.WIDTH,
        "intermediate_size": tiny_model.FEED_FORWARD,
        "num_hidden_layers": 1,
        "num_attention_heads": tiny_model.HEADS,
        "num_key_value_heads": tiny_model.HEADS,
        "head_dim": tiny_model.HEAD,
        "max_position_embeddings": tiny_model.CONTEXT,
        "rms_norm_eps": tiny_model.EPSILON,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "bos_token_id": tiny_model.START,
        "eos_token_id": tiny_model.END,
        "pad_token_id": tiny_model.PAD,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors({NAMES[name]: values for name, values in tiny_model.tensors(text).items()}, folder)


def write_tensors(tensors: dict, folder: Path) -> None:
    """https://github.com/huggingface/safetensors#format: the head's length, the head, the values one after the other."""
    head, end = {}, 0
    for name, values in tensors.items():
        head[name] = {"dtype": "F32", "shape": values.shape, "data_offsets": [end, end + values.nbytes]}
        end += values.nbytes
    written = json.dumps({"__metadata__": {"format": "pt"}, **head}).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(written).to_bytes(8, "little") + written)
        for values in tensors.values():
            file.write(values.tobytes())


if __name__ == "__main__":
    write(b" ".join(Path(sys.argv[1]).read_bytes().split()), Path(sys.argv[2]))
