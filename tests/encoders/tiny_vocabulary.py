# SPDX-License-Identifier: Apache-2.0
"""A CLIP vocabulary of a few words, made from its merges."""

import json

MERGES = ["c a", "ca t</w>", "s a", "sa t</w>", "m a", "ma t</w>", "d o", "do g</w>"]
MERGES += ["' s</w>", "t h", "th e</w>", "r e", "re d</w>", "Ã ©</w>", "! !</w>"]


def clip_folder(folder, **config):
    """A folder of vocab.json, merges.txt and a config, as CLIP's are."""
    folder.mkdir(exist_ok=True)
    letters = [chr(i) for i in range(33, 127)] + ["Ã", "©", "¶", "Ł", "ħ", "Ģ", "Ķ"]
    names = letters + [f"{letter}</w>" for letter in letters]
    names += [pair.replace(" ", "") for pair in MERGES]
    names += ["<|startoftext|>", "<|endoftext|>"]
    vocabulary = {name: i for i, name in enumerate(dict.fromkeys(names))}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(MERGES) + "\n")
    given = dict(
        tokenizer_class="CLIPTokenizer",
        model_max_length=12,
        bos_token="<|startoftext|>",
        eos_token="<|endoftext|>",
        unk_token="<|endoftext|>",
        pad_token="<|endoftext|>",
    )
    (folder / "tokenizer_config.json").write_text(json.dumps(given | config))
    return folder
