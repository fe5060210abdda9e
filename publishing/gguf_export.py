"""GGUF file of a model for llama.cpp and Ollama: weights, tokenizer and chat template, written and read back."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType

from config import EOS, ModelArgs
from model import Llama, rope_frequencies
from publishing.gguf_vocabulary import Vocabulary, add_vocabulary, read_vocabulary
from runtime.errors import UserError
from tokenization.prompt_template import HEADINGS
from tokenizer import Tokenizer

# Precision -> (type of the matrices, llama.cpp's name for such a file).
TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q4_0": (GGMLQuantizationType.Q4_0, LlamaFileType.MOSTLY_Q4_0),
    "q5_0": (GGMLQuantizationType.Q5_0, LlamaFileType.MOSTLY_Q5_0),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
QUANTIZED = (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q5_0, GGMLQuantizationType.Q8_0)
BLOCK = 32  # values that share a scale in these
ROPE_FACTORS = "rope_freqs.weight"


@dataclass(frozen=True)
class Description:
    """Name of a model for its GGUF file, with its licence and the model that it was made from, if known."""

    name: str
    license: str | None = None
    base_model: str | None = None


def check_supported(model: Llama, tokenizer: Tokenizer) -> Vocabulary:
    """Return the tokenizer as llama.cpp reads it. Raises UserError for models and tokenizers that it does not have."""
    if model.legacy:
        raise UserError(
            "llama.cpp does not support the published weights (no rotary positions, no final norm): "
            "export them with --format safetensors"
        )
    return read_vocabulary(tokenizer, model.args.vocab_size)


def write_gguf(
    path: Path,
    model: Llama,
    tokenizer: Tokenizer,
    precision: str,
    chat_template: str | None,
    description: Description | None = None,
) -> None:
    """Write a model and its tokenizer; models that continue texts have no chat template.

    Raises UserError for those that llama.cpp does not support.
    """
    vocabulary = check_supported(model, tokenizer)
    matrix_type, file_type = TYPES[precision]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if description:
        _add_description(writer, description)
    _add_architecture(writer, model.args)
    add_vocabulary(writer, vocabulary)
    if chat_template is not None:
        writer.add_chat_template(chat_template)

    weights = model.state_dict()
    for name, gguf_name in gguf_names(model).items():
        values = to_llama_cpp_order(name, weights[name].float().cpu().numpy(), model.args)
        tensor_type = _tensor_type(name, values, matrix_type)
        writer.add_tensor(gguf_name, gguf.quantize(values, tensor_type), raw_dtype=tensor_type)
    if model.args.rope_scaling and model.args.rope_scaling["rope_type"] == "llama3":
        writer.add_tensor(ROPE_FACTORS, _rope_factors(model.args))

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_description(writer: gguf.GGUFWriter, description: Description) -> None:
    writer.add_name(description.name)
    if description.license:
        writer.add_license(description.license)
    if description.base_model:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, description.base_model)


def _rope_factors(args: ModelArgs) -> np.ndarray:
    """Return by how much llama3's scaling divides each rotary frequency (D/2)."""
    unscaled = rope_frequencies(args.replace(rope_scaling=None))
    return (unscaled / rope_frequencies(args)).numpy()


def _add_architecture(writer: gguf.GGUFWriter, args: ModelArgs) -> None:
    writer.add_context_length(args.block_size)
    writer.add_vocab_size(args.vocab_size)
    writer.add_embedding_length(args.embeddings_dims)
    writer.add_block_count(args.no_of_decoder_layers)
    writer.add_feed_forward_length(args.hidden_dims)
    writer.add_head_count(args.no_of_heads)
    writer.add_head_count_kv(args.no_kv_heads)
    writer.add_key_length(args.head_dim)
    writer.add_value_length(args.head_dim)
    writer.add_rope_dimension_count(args.head_dim)
    writer.add_rope_freq_base(args.rope_theta)
    writer.add_layer_norm_rms_eps(args.eps)
    if args.rope_scaling and args.rope_scaling["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(args.rope_scaling["factor"])


def _tensor_type(name: str, values: np.ndarray, matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    """Return the type of a tensor.

    Norms stay in float32; quantized matrices whose rows are not a multiple of a block become float16, as in llama.cpp's
    converter. Embedding and head, which lose most by rounding, keep 8 bits where others have fewer.
    """
    if values.ndim == 1:
        return GGMLQuantizationType.F32
    if matrix_type in QUANTIZED and values.shape[-1] % BLOCK != 0:
        return GGMLQuantizationType.F16
    if matrix_type in QUANTIZED and name in ("model.embed_tokens.weight", "lm_head.weight"):
        return GGMLQuantizationType.Q8_0
    return matrix_type


def gguf_names(model: Llama) -> dict[str, str]:
    """Return {our name: name in the file} of the weights; a tied head is not in the file, it is the embedding."""
    table = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.args.no_of_decoder_layers)
    names = {}
    for name in model.state_dict():
        if name == "lm_head.weight" and model.args.tie_embeddings:
            continue
        gguf_name = table.get_name(name, try_suffixes=(".weight",))
        names[name] = gguf_name
    return names


def to_llama_cpp_order(name: str, values: np.ndarray, args: ModelArgs) -> np.ndarray:
    """Reorder the rows of q_proj and k_proj: llama.cpp rotates rows (2i, 2i + 1) together, we (i, i + D/2)."""
    return _swap_row_axes(name, values, args, (2, args.head_dim // 2))


def to_our_order(name: str, values: np.ndarray, args: ModelArgs) -> np.ndarray:
    """Undo `to_llama_cpp_order`."""
    return _swap_row_axes(name, values, args, (args.head_dim // 2, 2))


def _swap_row_axes(name: str, values: np.ndarray, args: ModelArgs, axes: tuple[int, int]) -> np.ndarray:
    """Return a matrix whose rows of each head, seen as a table of shape `axes`, are transposed.

    Only q_proj and k_proj have such rows; other weights are returned as they are.
    """
    num_heads = {"q_proj": args.no_of_heads, "k_proj": args.no_kv_heads}.get(name.split(".")[-2])
    if num_heads is None:
        return values

    by_head = values.reshape(num_heads, *axes, -1)  # H 2 D/2 C, or H D/2 2 C
    return np.ascontiguousarray(by_head.swapaxes(1, 2).reshape(values.shape))  # H*D C


def read_gguf(path: Path, model: Llama) -> dict[str, torch.Tensor]:
    """Return the weights of a file in float32, with the names and the row order of a model of its architecture."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}

    weights = {}
    for name, gguf_name in gguf_names(model).items():
        tensor = tensors[gguf_name]
        values = gguf.dequantize(tensor.data, tensor.tensor_type)
        weights[name] = torch.from_numpy(to_our_order(name, values, model.args).copy())

    if model.args.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def modelfile(
    gguf_file: str,
    template: str | None,
    args: ModelArgs,
    stop_tokens: Sequence[str] = (EOS,),
    num_predict: int | None = None,
) -> str:
    """Return an Ollama Modelfile: a template in Go's language, the tokens that end a reply, sampling settings.

    Without a template Ollama takes the one inside the GGUF file; without `num_predict` a reply ends where it ends.
    """
    lines = [f"FROM ./{gguf_file}"]
    if template is None:
        lines.append("# no TEMPLATE: Ollama takes the chat template inside the GGUF file")
    else:
        lines.append(f'TEMPLATE """{template}"""')
    lines += [f'PARAMETER stop "{token}"' for token in stop_tokens]
    lines += [
        f"PARAMETER num_ctx {args.block_size}",
        f"PARAMETER temperature {args.temperature}",
        f"PARAMETER top_k {args.top_k}",
        f"PARAMETER top_p {args.top_p}",
        f"PARAMETER min_p {args.min_p}",
        f"PARAMETER repeat_penalty {args.repetition_penalty}",
    ]
    if num_predict is not None:
        lines.append(f"PARAMETER num_predict {num_predict}")
    return "\n".join(lines) + "\n"


def ollama_template(is_instruct: bool, eos_token: str = EOS) -> str:
    """Return our chat template in Go's template language, which Ollama reads; that of a base model is the text."""
    if not is_instruct:
        return "{{ .Prompt }}"
    branches = []
    for role, heading in HEADINGS.items():
        keyword = "else if" if branches else "if"
        end = eos_token if role == "assistant" else "\n\n"
        branches.append(f'{{{{ {keyword} eq .Role "{role}" }}}}{heading}{{{{ .Content }}}}{end}')

    end_if = "{{ end }}"
    end_range = "{{ end }}"
    return "{{ range .Messages }}" + "".join(branches) + end_if + end_range + HEADINGS["assistant"]
