"""The tiny model's tokenizer as Hugging Face's libraries read it: `tiny_tokenizer.py FOLDER`. A token is a byte."""

import json
import sys
from pathlib import Path

import tiny_model

SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def write(folder: Path) -> None:
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


if __name__ == "__main__":
    write(Path(sys.argv[1]))
