# SPDX-License-Identifier: Apache-2.0
"""A config.json of transformers, read field by field: nothing is passed over."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jdit.encoders.layers import (
    Activation,
    gelu,
    gelu_tanh,
    quick_gelu,
    relu,
    silu,
)

ACTIVATIONS: dict[str, Activation] = {
    "gelu": gelu,
    "gelu_pytorch_tanh": gelu_tanh,
    "gelu_new": gelu_tanh,
    "quick_gelu": quick_gelu,
    "relu": relu,
    "silu": silu,
    "swish": silu,
}

IGNORED = frozenset(
    """
    _attn_implementation _attn_implementation_autoset _name_or_path architectures
    auto_map bad_words_ids begin_suppress_tokens bos_token_id cache_implementation
    chunk_size_feed_forward classifier_dropout decoder_start_token_id
    diversity_penalty do_sample dtype early_stopping
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
    id2label initializer_factor initializer_range is_encoder_decoder label2id
    length_penalty max_length min_length model_type no_repeat_ngram_size
    num_beam_groups num_beams num_return_sequences output_attentions
    output_hidden_states output_past output_scores pad_token_id prefix pretraining_tp
    problem_type remove_invalid_values repetition_penalty return_dict
    return_dict_in_generate sep_token_id suppress_tokens task_specific_params
    temperature tf_legacy_loss tie_encoder_decoder tie_word_embeddings tokenizer_class
    top_k top_p torch_dtype torchscript transformers_version typical_p use_bfloat16
    use_cache attention_dropout attention_probs_dropout_prob dropout
    dropout_rate hidden_dropout_prob
    """.split()
)
"""Fields that say how a model was made, trained, stored or sampled from."""

_PLAIN: dict[str, tuple[Any, ...]] = {
    "add_cross_attention": (False, None),
    "cross_attention_hidden_size": (None,),
    "is_decoder": (False, None),
    "pruned_heads": ({}, None),
}
"""Fields of every config whose other values would make another function."""


class Fields:
    """The fields of a config, each of which must be taken, fixed or ignored.

    path: for messages. config: the fields. Every error is a ValueError that names the
    file, the field and its value.
    """

    def __init__(self, path: Path | str, config: Mapping[str, Any]) -> None:
        self.path, self.config = path, config
        self._left = set(config) - IGNORED - set(_PLAIN)
        for name, accepted in _PLAIN.items():
            self.fixed(name, *accepted)

    def take(self, name: str, default: Any) -> Any:
        """A field's value, or the default, whose kind it must have.

        Whole numbers must be positive. A default of None accepts these and null.
        """
        self._left.discard(name)
        value = self.config.get(name, default)
        whole = isinstance(value, int) and not isinstance(value, bool) and value > 0
        if default is None:
            fits, kind = value is None or whole, "a positive whole number or null"
        elif isinstance(default, bool):
            fits, kind = isinstance(value, bool), "true or false"
        elif isinstance(default, int):
            fits, kind = whole, "a positive whole number"
        elif isinstance(default, float):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            fits, kind = number, "a number"
            value = float(value) if number else value
        else:
            fits, kind = isinstance(value, type(default)), f"a {type(default).__name__}"
        if not fits:
            raise ValueError(f"{self.path} has {name} {value!r}, but it must be {kind}")
        return value

    def any(self, name: str, default: Any = None) -> Any:
        """A field's value, unchecked."""
        self._left.discard(name)
        return self.config.get(name, default)

    def activation(self, name: str, default: str) -> Activation:
        """A field that names an activation."""
        value = self.take(name, default)
        if value not in ACTIVATIONS:
            raise ValueError(
                f"{self.path} has {name} {value!r}, but it must be one of "
                f"{', '.join(ACTIVATIONS)}"
            )
        return ACTIVATIONS[value]

    def fixed(self, name: str, *accepted: Any) -> None:
        """A field that must have one of these values, if it is there."""
        self._left.discard(name)
        if name in self.config and self.config[name] not in accepted:
            raise ValueError(
                f"{self.path} has {name} {self.config[name]!r}, but only "
                f"{accepted[0]!r} is supported"
            )

    def ignore(self, *names: str) -> None:
        """Fields that cannot change the encoder's function."""
        self._left -= set(names)

    def refuse(self, name: str, must: str) -> ValueError:
        """The error of a field whose value cannot be honoured."""
        value = self.config.get(name)
        return ValueError(f"{self.path} has {name} {value!r}, but it must be {must}")

    def done(self) -> None:
        """Raise ValueError if a field is left over."""
        for name in sorted(self._left):
            raise ValueError(
                f"{self.path} has the unknown field {name!r} "
                f"({self.config[name]!r}), which may change the function"
            )


def name_of(activation: Activation, *preferred: str) -> str:
    """The name of an activation, the first of the preferred ones that fits."""
    for name in (*preferred, *ACTIVATIONS):
        if ACTIVATIONS[name] is activation:
            return name
    raise ValueError(
        f"activation is {activation!r}, but stored can be {', '.join(ACTIVATIONS)}"
    )
