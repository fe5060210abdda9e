"""GGUF file of a model for llama.cpp and Ollama: weights, tokenizer and chat template, written and read back."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType

from config import EOS, ModelArgs
from model import Llama
from runtime.errors import UserError
from tokenization.prompt_template import CHAT_TEMPLATE, HEADINGS
from tokenizer import Tokenizer

# Precision -> (type of the matrices, llama.cpp's name for such a file).
TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
Q8_BLOCK = 32  # values that share a scale in q8_0


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer, precision: str) -> None:
    """Write a model and its tokenizer. Raises UserError for those that llama.cpp does not support."""
    if model.legacy:
        raise UserError(
            "llama.cpp does not support the published weights (no rotary positions, no final norm): "
            "export them with --format safetensors"
        )
    if not tokenizer.fast:
        raise UserError(
            "llama.cpp does not know how this tokenizer splits text (it is not a ranked byte-level BPE): "
            "convert the folder with llama.cpp's own script"
        )

    matrix_type, file_type = TYPES[precision]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(file_type)
    _add_architecture(writer, model.args)
    _add_tokenizer(writer, tokenizer, model.args.vocab_size)

    weights = model.state_dict()
    for name, gguf_name in gguf_names(model).items():
        values = to_llama_cpp_order(name, weights[name].float().cpu().numpy(), model.args)
        tensor_type = _tensor_type(values, matrix_type)
        writer.add_tensor(gguf_name, gguf.quantize(values, tensor_type), raw_dtype=tensor_type)

    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, num_rows: int) -> None:
    """Add the vocabulary, padded to the rows of the embedding; "gpt-2" is how our tokenizers split text into words."""
    tokens = [f"[PAD{token_id}]" for token_id in range(num_rows)]
    types = [TokenType.UNUSED] * num_rows
    for token, token_id in tokenizer.hf.get_vocab().items():
        tokens[token_id] = token
        types[token_id] = TokenType.CONTROL if token_id == tokenizer.eos_id else TokenType.NORMAL

    merges = [" ".join(pair) for pair in json.loads(tokenizer.hf.to_str())["model"]["merges"]]
    if not merges:  # of a byte tokenizer; llama.cpp needs one, so it gets one that never applies
        merges = [f"{EOS} {EOS}"]

    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokenizer.eos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensor_type(values: np.ndarray, matrix_type: GGMLQuantizationType) -> GGMLQuantizationType:
    """Return the type of a tensor, chosen as llama.cpp's converter does.

    Norms stay in float32; q8_0 matrices whose rows are not a multiple of a block become float16.
    """
    if values.ndim == 1:
        return GGMLQuantizationType.F32
    if matrix_type == GGMLQuantizationType.Q8_0 and values.shape[-1] % Q8_BLOCK != 0:
        return GGMLQuantizationType.F16
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


def modelfile(gguf_file: str, is_instruct: bool, args: ModelArgs) -> str:
    """Return an Ollama Modelfile: the prompt template, if the model was trained on it, and our sampling settings."""
    template = ollama_template() if is_instruct else "{{ .Prompt }}"
    lines = [
        f"FROM ./{gguf_file}",
        f'TEMPLATE """{template}"""',
        f'PARAMETER stop "{EOS}"',
        f"PARAMETER num_ctx {args.block_size}",
        f"PARAMETER temperature {args.temperature}",
        f"PARAMETER top_k {args.top_k}",
        f"PARAMETER top_p {args.top_p}",
        f"PARAMETER repeat_penalty {args.repetition_penalty}",
    ]
    return "\n".join(lines) + "\n"


def ollama_template() -> str:
    """Return our chat template in Go's template language, which Ollama reads."""
    branches = []
    for role, heading in HEADINGS.items():
        keyword = "else if" if branches else "if"
        end = EOS if role == "assistant" else "\n\n"
        branches.append(f'{{{{ {keyword} eq .Role "{role}" }}}}{heading}{{{{ .Content }}}}{end}')

    end_if = "{{ end }}"
    end_range = "{{ end }}"
    return "{{ range .Messages }}" + "".join(branches) + end_if + end_range + HEADINGS["assistant"]
