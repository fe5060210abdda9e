"""A model as one GGUF file for llama.cpp and Ollama: weights, tokenizer and chat template, written and read back."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, LlamaFileType, TokenType

from config import EOS, ModelArgs
from model import Llama
from runtime.errors import UserError
from tokenizer import CHAT_TEMPLATE, HEADINGS, Tokenizer

# By our names of precisions: the type of the matrices, and llama.cpp's word for the file.
TYPES = {
    "float32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "float16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bfloat16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
Q8_BLOCK = 32


def write_gguf(path: Path, model: Llama, tokenizer: Tokenizer, precision: str) -> None:
    """Write the file. Raises UserError for a model or a tokenizer that llama.cpp does not have."""
    if model.legacy:
        raise UserError(
            "the published weights have no rotary positions and no final norm, which llama.cpp does not "
            "know: export them with --format safetensors"
        )
    if not tokenizer.fast:
        raise UserError(
            "this tokenizer is not a ranked byte-level BPE, and its cuts are not known to llama.cpp: "
            "convert the folder with llama.cpp's own script"
        )
    matrix, kind = TYPES[precision]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_file_type(kind)
    _add_architecture(writer, model.args)
    _add_tokenizer(writer, tokenizer, model.args.vocab_size)
    names = gguf_names(model)
    for name, weight in model.state_dict().items():
        if name in names:
            values = _interleaved(name, weight.float().cpu().numpy(), model.args)
            as_type = _type_of(values, matrix)
            writer.add_tensor(names[name], gguf.quantize(values, as_type), raw_dtype=as_type)
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


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    """The vocabulary, filled up to the rows of the embedding; "gpt-2" names the cuts that our tokenizers make."""
    tokens, types = [f"[PAD{number}]" for number in range(rows)], [TokenType.UNUSED] * rows
    for token, number in tokenizer.hf.get_vocab().items():
        tokens[number] = token
        types[number] = TokenType.CONTROL if number == tokenizer.eos_id else TokenType.NORMAL
    merges = [" ".join(pair) for pair in json.loads(tokenizer.hf.to_str())["model"]["merges"]]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(
        merges or [f"{EOS} {EOS}"]
    )  # bytes have none; llama.cpp wants one, so one that never is
    writer.add_bos_token_id(tokenizer.eos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_add_eos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _type_of(values: np.ndarray, matrix: GGMLQuantizationType) -> GGMLQuantizationType:
    """Norms stay in float32; rows that are not whole blocks of q8_0 become float16, as in llama.cpp's converter."""
    if values.ndim == 1:
        return GGMLQuantizationType.F32
    if matrix == GGMLQuantizationType.Q8_0 and values.shape[-1] % Q8_BLOCK:
        return GGMLQuantizationType.F16
    return matrix


def gguf_names(model: Llama) -> dict[str, str]:
    """The name in the file of each weight; a tied head has none, it is the embedding."""
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.args.no_of_decoder_layers)
    return {
        name: known.get_name(name, try_suffixes=(".weight",))
        for name in model.state_dict()
        if name != "lm_head.weight" or not model.args.tie_embeddings
    }


def _interleaved(name: str, values: np.ndarray, args: ModelArgs, back: bool = False) -> np.ndarray:
    """Rows of q_proj and k_proj in llama.cpp's order: it turns neighbours (2i, 2i + 1), we turn (i, i + D/2).

    `back` gives our order again.
    """
    heads = {"q_proj": args.no_of_heads, "k_proj": args.no_kv_heads}.get(name.split(".")[-2])
    if heads is None:
        return values
    pairs = (args.head_dim // 2, 2) if back else (2, args.head_dim // 2)
    return np.ascontiguousarray(values.reshape(heads, *pairs, -1).swapaxes(1, 2).reshape(values.shape))


def read_gguf(path: Path, model: Llama) -> dict[str, torch.Tensor]:
    """The weights of a file as float32, by the names and in the order of a model of its architecture."""
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    weights = {}
    for name, there in gguf_names(model).items():
        values = gguf.dequantize(tensors[there].data, tensors[there].tensor_type)
        weights[name] = torch.from_numpy(_interleaved(name, values, model.args, back=True).copy())
    if model.args.tie_embeddings:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return weights


def modelfile(file: str, answers: bool, args: ModelArgs) -> str:
    """An Ollama Modelfile: the prompt template where the model has learned it, and our sampling settings."""
    template = "{{ .Prompt }}"
    if answers:
        ends = {role: EOS if role == "assistant" else "\n\n" for role in HEADINGS}
        turns = "".join(
            f'{{{{ {"else " * bool(number)}if eq .Role "{role}" }}}}{heading}{{{{ .Content }}}}{ends[role]}'
            for number, (role, heading) in enumerate(HEADINGS.items())
        )
        template = f"{{{{ range .Messages }}}}{turns}{{{{ end }}}}{{{{ end }}}}{HEADINGS['assistant']}"
    lines = [
        f"FROM ./{file}",
        f'TEMPLATE """{template}"""',
        f'PARAMETER stop "{EOS}"',
        f"PARAMETER num_ctx {args.block_size}",
        f"PARAMETER temperature {args.temperature}",
        f"PARAMETER top_k {args.top_k}",
        f"PARAMETER top_p {args.top_p}",
        f"PARAMETER repeat_penalty {args.repetition_penalty}",
    ]
    return "\n".join(lines) + "\n"
