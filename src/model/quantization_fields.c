#include "model/quantization_fields.h"

#define USED(name, note)                                                                           \
    { name, FB_FIELD_USED, 0, note }
#define UNUSED(name, note)                                                                         \
    { name, FB_FIELD_UNUSED, 0, note }
#define REFUSED(name, neutral, note)                                                               \
    { name, FB_FIELD_REFUSED, neutral, note }
#define WARNED(name, neutral, note)                                                                \
    { name, FB_FIELD_WARNED, neutral, note }
#define END                                                                                        \
    { 0 }

const fb_field fb_compressed_fields[] = {
    USED("quant_method", "compressed-tensors"),
    USED("format", "int-quantized, naive-quantized, pack-quantized or mixed-precision"),
    USED("config_groups", "which layers are quantised, and how"),
    USED("ignore", "layers that are not quantised: names, or regular expressions after \"re:\""),
    USED("sparsity_config", "dense, or not there"),
    REFUSED("transform_config", "{}", "rotations of weights and activations"),
    WARNED("kv_cache_scheme", 0, "not read; the caller says how keys and values are stored"),
    UNUSED("quantization_status", "the tensors of the files decide"),
    UNUSED("global_compression_ratio", "where the files come from"),
    UNUSED("version", "where the files come from"),
    UNUSED("provider", "where the files come from"),
    UNUSED("run_compressed", "how transformers computes"),
    END,
};

const fb_field fb_compressed_group_fields[] = {
    USED("targets", "names of layers, regular expressions after \"re:\", Linear or Embedding"),
    USED("weights", "null: these layers are not quantised"),
    USED("input_activations", "see below"),
    USED("format", "goes before the format of all groups"),
    WARNED("output_activations", 0, "what a layer gives is not quantised"),
    END,
};

const fb_field fb_compressed_weight_fields[] = {
    USED("num_bits", "8 or 4"),
    USED("type", "int"),
    USED("symmetric", "missing: true; false: there are zero points"),
    USED("strategy", "tensor, channel or group; missing: as group_size says"),
    USED("group_size", "columns of a group; -1: a row is one group"),
    USED("actorder", "group or dynamic: columns are grouped by weight_g_idx"),
    REFUSED("dynamic", "false", "scales of weights are in the files"),
    REFUSED("block_structure", 0, "blocks of rows and columns"),
    UNUSED("observer", "how the scales were found"),
    UNUSED("observer_kwargs", "how the scales were found"),
    UNUSED("scale_dtype", "the tensors of the files decide"),
    UNUSED("zp_dtype", "the tensors of the files decide"),
    UNUSED("is_mx", "a type of float"),
    END,
};

const fb_field fb_compressed_input_fields[] = {
    REFUSED("type", "\"int\"", "activations of 8 bits are integers"),
    WARNED("num_bits", "8", "activations have 8 bits or 32"),
    WARNED("dynamic", "true", "scales of activations in the files are not read"),
    UNUSED("symmetric", "activations are quantised by a rule of this library"),
    UNUSED("strategy", "activations are quantised by a rule of this library"),
    UNUSED("group_size", "activations are quantised by a rule of this library"),
    UNUSED("actorder", "activations are quantised by a rule of this library"),
    UNUSED("block_structure", "activations are quantised by a rule of this library"),
    UNUSED("observer", "how the scales were found"),
    UNUSED("observer_kwargs", "how the scales were found"),
    UNUSED("scale_dtype", "activations are quantised by a rule of this library"),
    UNUSED("zp_dtype", "activations are quantised by a rule of this library"),
    UNUSED("is_mx", "a type of float"),
    END,
};

const fb_field fb_gptq_fields[] = {
    USED("quant_method", "gptq; missing in old files"),
    USED("method", "as quant_method, where that is missing"),
    USED("bits", "8 or 4"),
    USED("group_size", "columns of a group; -1: a row is one group"),
    USED("checkpoint_format", "gptq: qzeros hold the zero point less 1; gptq_v2: the zero point"),
    USED("format", "as checkpoint_format"),
    USED("dynamic", "other bits and groups for some layers: the tensors decide"),
    REFUSED("pack_dtype", "\"int32\"", "integers are packed into int32"),
    REFUSED("is_marlin_format", "false", "weights in the order of a GPU's kernel"),
    REFUSED("rotation", 0, "rotations of weights and activations"),
    UNUSED("desc_act", "g_idx of the files decides"),
    UNUSED("sym", "qzeros of the files decide"),
    UNUSED("lm_head", "the tensors of the files decide"),
    UNUSED("modules_in_block_to_quantize", "the tensors of the files decide"),
    UNUSED("block_name_to_quantize", "the tensors of the files decide"),
    UNUSED("module_name_preceding_first_block", "the tensors of the files decide"),
    UNUSED("damp_percent", "how the weights were quantised"),
    UNUSED("damp_auto_increment", "how the weights were quantised"),
    UNUSED("static_groups", "how the weights were quantised"),
    UNUSED("true_sequential", "how the weights were quantised"),
    UNUSED("hyb_act", "how the weights were quantised"),
    UNUSED("act_group_aware", "how the weights were quantised"),
    UNUSED("mse", "how the weights were quantised"),
    UNUSED("dataset", "how the weights were quantised"),
    UNUSED("tokenizer", "how the weights were quantised"),
    UNUSED("batch_size", "how the weights were quantised"),
    UNUSED("pad_token_id", "how the weights were quantised"),
    UNUSED("model_seqlen", "how the weights were quantised"),
    UNUSED("cache_block_outputs", "how the weights were quantised"),
    UNUSED("meta", "how the weights were quantised"),
    UNUSED("pack_impl", "how the weights were quantised"),
    UNUSED("model_name_or_path", "where the files come from"),
    UNUSED("model_file_base_name", "where the files come from"),
    UNUSED("version", "where the files come from"),
    UNUSED("backend", "how transformers computes"),
    UNUSED("use_cuda_fp16", "how transformers computes"),
    UNUSED("use_exllama", "how transformers computes"),
    UNUSED("disable_exllama", "how transformers computes"),
    UNUSED("exllama_config", "how transformers computes"),
    UNUSED("max_input_length", "how transformers computes"),
    END,
};
