"""Language, speech and vision-language networks of transformers, with small configurations of realistic structure."""

from dataclasses import replace
from typing import Any

from row import Row

Inputs = tuple[str, ...]

FIXED: Inputs = ("input_ids:int400[1,16]", "attention_mask:ones[1,16]")
FREE: Inputs = ("input_ids:int400[batch=2,sequence=16]", "attention_mask:ones[batch=2,sequence=16]")
PAIR: Inputs = (*FIXED, "decoder_input_ids:int400[1,8]")
PIXELS: Inputs = ("pixel_values:float[1,3,64,64]",)
FREE_PIXELS: Inputs = ("pixel_values:float[batch=1,3,64,64]",)
ANY_PIXELS: Inputs = ("pixel_values:float[batch=1,3,height=64,width=64]",)
WAVE: Inputs = ("input_values:float[1,1600]",)
FREE_WAVE: Inputs = ("input_values:float[batch=1,samples=1600]",)

SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
DEEP = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
OPT = {"vocab_size": 400, **DEEP, **SPECIAL}
BERT = {**OPT, "intermediate_size": 192}
SHORT = {**BERT, "max_position_embeddings": 32}
HALF_EMBEDDED = {**BERT, "embedding_size": 48}
RELATIVE = {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
LLAMA = {**BERT, "num_attention_heads": 6, "num_key_value_heads": 2, "intermediate_size": 256}
QWEN = {**LLAMA, "head_dim": 24}
LOCAL = {**QWEN, "sliding_window": 8}
GPT = {"vocab_size": 400, "n_embd": 96, "n_layer": 2, "n_head": 4, **SPECIAL}
T5 = {"vocab_size": 400, "d_model": 96, "d_kv": 16, "d_ff": 192, "num_layers": 2, "num_heads": 6}
FUNNEL = {"vocab_size": 400, "d_model": 96, "n_head": 4, "d_head": 24, "d_inner": 192, "block_sizes": [1, 1]}
DISTIL = {"vocab_size": 400, "dim": 96, "n_layers": 2, "n_heads": 4, "hidden_dim": 192}
NEO = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]]}
HALVES = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 192}
BART = {
    **{"vocab_size": 400, "d_model": 96, "max_position_embeddings": 64, **SPECIAL, **HALVES},
    **{key.replace("encoder", "decoder"): value for key, value in HALVES.items()},
}
WHISPER = {"num_mel_bins": 40, "d_model": 96, "max_source_positions": 64, **HALVES}
CONVS = {"conv_dim": [32] * 4, "conv_kernel": [10, 3, 3, 2], "conv_stride": [5, 2, 2, 2]}
WAV2VEC = {**BERT, **CONVS, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
STABLE = {**WAV2VEC, "do_stable_layer_norm": True, "feat_extract_norm": "layer"}
AST = {**DEEP, "intermediate_size": 192, "max_length": 64, "num_mel_bins": 32}
VISION = {**DEEP, "intermediate_size": 192, "image_size": 64, "patch_size": 16}
DPT = {
    **{**VISION, "num_hidden_layers": 4, "backbone_out_indices": [0, 1, 2, 3]},
    **{"neck_hidden_sizes": [16, 32, 64, 96], "fusion_hidden_size": 32},
}
RELATIVE_BEIT = {**VISION, "use_relative_position_bias": True, "layer_scale_init_value": 0.1}
MOBILEVIT = {"hidden_sizes": [48, 64, 80], "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 160], "image_size": 64}
WINDOWS = {"window_size": 2, "window_block_indices": [0], "use_relative_position_embeddings": True}
VITDET = {**DEEP, **WINDOWS, "image_size": 64, "pretrain_image_size": 64}
SWIN2SR = {"embed_dim": 48, "depths": [2, 2], "num_heads": [4, 4], "window_size": 8, "upscale": 2}
BACKBONE = {"model_type": "resnet", "embedding_size": 16, "hidden_sizes": [32, 48, 64, 96], "depths": [1, 1, 1, 1]}
STAGES = {"out_features": ["stage1", "stage2", "stage3", "stage4"]}
DETR = {
    **{"d_model": 96, "num_queries": 10, "use_timm_backbone": False, "backbone": None},
    **{"backbone_config": BACKBONE | {"out_features": ["stage4"]}, **HALVES},
    **{key.replace("encoder", "decoder"): value for key, value in HALVES.items()},
}
PATCHES = {"context_length": 64, "patch_length": 8, "patch_stride": 8, "prediction_length": 8, "num_input_channels": 3}
PATCH_TST = {**PATCHES, "d_model": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128}


def text(
    name: str, target: str, inputs: Inputs, config: dict[str, Any], opset: int = 17, output: str = "last_hidden_state"
) -> Row:
    """Row of one transformers model; the family is the first word of its name."""
    return Row(
        name, name.partition("-")[0], f"transformers:{target}", inputs, opset=opset, options=config, output=output
    )


def logits(name: str, target: str, inputs: Inputs, config: dict[str, Any], opset: int = 17) -> Row:
    """As `text`, for models with a head."""
    return text(name, target, inputs, config, opset, "logits")


ENCODERS = [
    text("bert-base", "BertModel", FIXED, {"vocab_size": 1000, "num_hidden_layers": 2}, 14),
    text("bert-full", "BertModel", FREE, {"vocab_size": 1000, "num_hidden_layers": 2, "max_position_embeddings": 128}),
    text("bert-small", "BertModel", FREE, BERT, 14),
    text("bert-sdpa", "BertModel", FIXED, {**BERT, "attention": "sdpa"}),
    replace(text("bert-half", "BertModel", FIXED, BERT), half=True),
    logits("bert-classifier", "BertForSequenceClassification", FIXED, {**BERT, "num_labels": 3}, 11),
    text("bert-questions", "BertForQuestionAnswering", FREE, BERT, 13, ""),
    logits("bert-masked", "BertForMaskedLM", FREE, BERT),
    text("distilbert", "DistilBertModel", FREE, DISTIL, 14),
    text("roberta", "RobertaModel", FREE, BERT, 14),
    logits("camembert-tokens", "CamembertForTokenClassification", FIXED, BERT, 13),
    text("albert", "AlbertModel", FREE, HALF_EMBEDDED, 14),
    text("albert-static", "AlbertModel", FIXED, HALF_EMBEDDED, 12),
    text("electra", "ElectraModel", FREE, HALF_EMBEDDED),
    text("deberta-v2", "DebertaV2Model", FIXED, {**RELATIVE, "position_buckets": 8}),
    text("deberta-v1", "DebertaModel", FIXED, RELATIVE),
    text("mpnet", "MPNetModel", FREE, BERT, 14),
    text("mobilebert", "MobileBertModel", FREE, {**BERT, "embedding_size": 32, "intra_bottleneck_size": 32}),
    text("squeezebert", "SqueezeBertModel", FIXED, {**BERT, "embedding_size": 96}, 14),
    text("roformer", "RoFormerModel", FIXED, BERT),
    text("convbert", "ConvBertModel", FIXED, {**BERT, "embedding_size": 96}),
    text("funnel", "FunnelBaseModel", FIXED, FUNNEL),
    replace(text("fnet", "FNetModel", FIXED[:1], BERT, 20), exporter="dynamo"),
    text("modernbert", "ModernBertModel", FREE, {**BERT, "reference_compile": False}),
    text("eurobert", "EuroBertModel", FREE, LLAMA),
    text("t5-encoder", "T5EncoderModel", FREE, T5),
    text("t5-encoder-gated", "T5EncoderModel", FIXED, {**T5, "feed_forward_proj": "gated-gelu"}, 14),
    text("xlnet", "XLNetModel", FIXED, {"vocab_size": 400, "d_model": 96, "n_layer": 2, "n_head": 4, "d_inner": 192}),
]

DECODERS = [
    logits("gpt2", "GPT2LMHeadModel", FREE, GPT, 14),
    text("gpt2-body", "GPT2Model", FIXED, GPT),
    text("imagegpt", "ImageGPTModel", FIXED[:1], GPT),
    logits("opt", "OPTForCausalLM", FREE, {**OPT, "ffn_dim": 192, "word_embed_proj_dim": 96}),
    text("opt-projected", "OPTModel", FIXED, {**OPT, "ffn_dim": 192, "word_embed_proj_dim": 48}),
    logits("gpt-neo", "GPTNeoForCausalLM", FIXED, {"vocab_size": 400, "hidden_size": 96, **NEO}),
    logits("gpt-neox", "GPTNeoXForCausalLM", FREE, BERT),
    logits("gptj", "GPTJForCausalLM", FIXED, {**GPT, "rotary_dim": 8}),
    logits("bloom", "BloomForCausalLM", FIXED, {"vocab_size": 400, "hidden_size": 96, "n_layer": 2, "n_head": 4}),
    logits("falcon", "FalconForCausalLM", FIXED, {"vocab_size": 400, **DEEP}),
    logits("llama", "LlamaForCausalLM", FREE, LLAMA),
    logits("llama-tied", "LlamaForCausalLM", FIXED, {**LLAMA, "tie_word_embeddings": True}, 14),
    logits("llama-sdpa", "LlamaForCausalLM", FIXED, {**LLAMA, "attention": "sdpa"}, 18),
    replace(logits("llama-half", "LlamaForCausalLM", FIXED, LLAMA), half=True),
    logits("mistral", "MistralForCausalLM", FREE, {**LLAMA, "sliding_window": 8}),
    logits("qwen2", "Qwen2ForCausalLM", FREE, LLAMA),
    logits("qwen3", "Qwen3ForCausalLM", FIXED, QWEN),
    logits("gemma", "GemmaForCausalLM", FIXED, QWEN),
    logits("gemma2", "Gemma2ForCausalLM", FIXED, LOCAL),
    logits("gemma3", "Gemma3ForCausalLM", FIXED, LOCAL),
    logits("phi", "PhiForCausalLM", FREE, {**BERT, "partial_rotary_factor": 0.5}),
    logits("phi3", "Phi3ForCausalLM", FIXED, LLAMA),
    logits("stablelm", "StableLmForCausalLM", FIXED, LLAMA),
    logits("olmo2", "Olmo2ForCausalLM", FIXED, LLAMA),
    logits("starcoder2", "Starcoder2ForCausalLM", FIXED, LLAMA),
    logits("smollm3", "SmolLM3ForCausalLM", FIXED, LLAMA),
    replace(logits("cohere", "CohereForCausalLM", FIXED, LLAMA, 18), exporter="dynamo"),
    logits("granite", "GraniteForCausalLM", FIXED, LLAMA),
    logits("mpt", "MptForCausalLM", FIXED, {"vocab_size": 400, "d_model": 96, "n_layers": 2, "n_heads": 4}),
    logits("rwkv", "RwkvForCausalLM", FIXED, {**BERT, "attention_hidden_size": 96}),
]

ENCODER_DECODERS = [
    logits("bart", "BartForConditionalGeneration", PAIR, BART),
    logits("marian", "MarianMTModel", PAIR, BART),
    logits("t5", "T5ForConditionalGeneration", PAIR, T5),
]

SPEECH = [
    text("whisper-encoder", "whisper.modeling_whisper:WhisperEncoder", ("input_features:float[1,40,128]",), WHISPER),
    text("wav2vec2", "Wav2Vec2Model", WAVE, WAV2VEC, 14),
    logits("wav2vec2-dynamic", "Wav2Vec2ForCTC", FREE_WAVE, STABLE),
    text("hubert", "HubertModel", WAVE, WAV2VEC),
    text("wavlm", "WavLMModel", WAVE, WAV2VEC),
    text("sew", "SEWModel", ("input_values:float[1,3200]",), {**WAV2VEC, "squeeze_factor": 2}),
    text("ast", "ASTModel", ("input_values:float[1,64,32]",), AST),
    replace(
        text("patchtst", "PatchTSTForPrediction", ("past_values:float[1,64,3]",), PATCH_TST, 18, ""), exporter="dynamo"
    ),
]

IMAGES = [
    text("clip-text", "CLIPTextModel", FIXED, SHORT),
    text("clip-vision", "CLIPVisionModel", PIXELS, VISION, 14),
    text("siglip-vision", "SiglipVisionModel", FREE_PIXELS, VISION),
    text("siglip-text", "SiglipTextModel", FIXED, {**BERT, "max_position_embeddings": 16}),
    text("hf-vit", "ViTModel", FREE_PIXELS, VISION, 14),
    text("hf-beit", "BeitModel", PIXELS, RELATIVE_BEIT),
    text("hf-dinov2", "Dinov2Model", PIXELS, {**VISION, "use_swiglu_ffn": True}),
    text("hf-mobilevit", "MobileViTModel", PIXELS, MOBILEVIT),
    text("hf-vitdet", "VitDetModel", PIXELS, VITDET),
    logits("segformer", "SegformerForSemanticSegmentation", PIXELS, {"num_labels": 5}),
    logits("segformer-dynamic", "SegformerForSemanticSegmentation", ANY_PIXELS, {"num_labels": 5}, 14),
    logits(
        "upernet",
        "UperNetForSemanticSegmentation",
        ("pixel_values:float[1,3,192,192]",),
        {"num_labels": 5, "use_auxiliary_head": False, "hidden_size": 64, "backbone_config": BACKBONE | STAGES},
    ),
    text("detr", "DetrForObjectDetection", PIXELS, DETR, 17, ""),
    logits("yolos", "YolosForObjectDetection", PIXELS, {**VISION, "image_size": [64, 64], "num_detection_tokens": 10}),
    text("glpn", "GLPNForDepthEstimation", PIXELS, {"depths": [1, 1, 1, 1]}, 17, "predicted_depth"),
    text("dpt", "DPTForDepthEstimation", PIXELS, DPT, 17, "predicted_depth"),
    text("swin2sr", "Swin2SRForImageSuperResolution", PIXELS, SWIN2SR, 17, "reconstruction"),
]

ROWS: list[Row] = [*ENCODERS, *DECODERS, *ENCODER_DECODERS, *SPEECH, *IMAGES]
