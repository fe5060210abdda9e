"""A model as one GGUF file for llama.cpp and all that builds on it: weights, tokenizer and chat template inside."""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from torch import Tensor

from config import EOS, ModelArgs, UserError
from model import Llama
from template import CHAT_TEMPLATE
from tokenizer import Tokenizer

TYPES = {"float32": gguf.GGMLQuantizationType.F32, "float16": gguf.GGMLQuantizationType.F16,
         "bfloat16": gguf.GGMLQuantizationType.BF16, "q8_0": gguf.GGMLQuantizationType.Q8_0}
FILE_TYPES = {"float32": gguf.LlamaFileType.ALL_F32, "float16": gguf.LlamaFileType.MOSTLY_F16,
              "bfloat16": gguf.LlamaFileType.MOSTLY_BF16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
LAYER_NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
               "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "post_attention_layernorm": "ffn_norm",
               "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}


def write_gguf(path: Path, name: str, model: Llama, tokenizer: Tokenizer, dtype: str) -> None:
    """Write a model with its matrices in a type of TYPES, its norms in float32.

    Raises UserError for a tokenizer that GGUF's GPT-2 kind cannot be.
    """
    if tokenizer.fast is None:
        raise UserError("the model's tokenizer is not a byte-level BPE of this project: only these go into a GGUF here")
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[dtype])
    _add_shape(writer, model.args)
    _add_tokenizer(writer, tokenizer, model.args.vocab_size)
    for weight, values in model.state_dict().items():
        if weight != "lm_head.weight" or not model.args.tie_embeddings:
            array = _pairs_together(weight, values.float(), model.args).numpy()
            kind = TYPES[dtype if array.ndim == 2 else "float32"]
            if kind == gguf.GGMLQuantizationType.Q8_0 and array.shape[1] % 32:  # its blocks are 32 wide
                kind = gguf.GGMLQuantizationType.F16
            writer.add_tensor(their_name(weight), gguf.quants.quantize(array, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_shape(writer: gguf.GGUFWriter, args: ModelArgs) -> None:
    writer.add_context_length(args.block_size)
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
    writer.add_vocab_size(args.vocab_size)


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: Tokenizer, rows: int) -> None:
    """A byte-level BPE with GPT-2's cuts; the rows of the embedding that have no token get names of their own."""
    tokens = [tokenizer.hf.id_to_token(token) for token in range(tokenizer.vocab_size)]
    types = [gguf.TokenType.NORMAL] * len(tokens)
    types[tokenizer.eos_id] = gguf.TokenType.CONTROL
    unused = rows - len(tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens + [f"[unused {number}]" for number in range(unused)])
    writer.add_token_types(types + [gguf.TokenType.UNUSED] * unused)
    merges = [" ".join(pair) for pair in json.loads(tokenizer.hf.to_str())["model"]["merges"]]
    writer.add_token_merges(merges or [f"{EOS} {EOS}"])  # bytes have none; llama.cpp wants one, so one that never is
    writer.add_bos_token_id(tokenizer.eos_id)
    writer.add_eos_token_id(tokenizer.eos_id)
    writer.add_pad_token_id(tokenizer.eos_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def their_name(weight: str) -> str:
    """llama.cpp's name for a weight of ours."""
    name = weight.removesuffix(".weight")
    if name in NAMES:
        return f"{NAMES[name]}.weight"
    layer, _, part = name.removeprefix("model.layers.").partition(".")
    return f"blk.{layer}.{LAYER_NAMES[part]}.weight"


def _pairs_together(weight: str, values: Tensor, args: ModelArgs, back: bool = False) -> Tensor:
    """Rows of the query and key matrices in llama.cpp's order, which turns neighbours where ours turns (i, i + D/2)."""
    if not weight.endswith(("q_proj.weight", "k_proj.weight")):
        return values
    halves = (args.head_dim // 2, 2) if back else (2, args.head_dim // 2)
    return values.view(-1, *halves, values.shape[1]).transpose(1, 2).reshape(values.shape)


def read_gguf(path: Path, args: ModelArgs) -> dict[str, Tensor]:
    """The weights in a file that write_gguf made, in float32 and by our names and order."""
    tensors = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
               for tensor in gguf.GGUFReader(path).tensors}
    weights = {}
    for weight, like in Llama(args).state_dict().items():
        tied = weight == "lm_head.weight" and args.tie_embeddings
        values = tensors[their_name("model.embed_tokens.weight" if tied else weight)]
        values = torch.from_numpy(np.array(values, np.float32)).view(like.shape)
        weights[weight] = _pairs_together(weight, values, args, back=True)
    return weights
