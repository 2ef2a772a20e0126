"""The whole zoo: every row, and the rows that the second exporter writes as well."""

from dataclasses import replace

import handmade
import keras_table
import language
import vision
from row import Row

DYNAMO = {
    18: """
        resnet18 tv-mobilenet_v2 tv-shufflenet_v2_x0_5 tv-squeezenet1_1 densenet121 dla46_c dpn48b
        res2net50_14w_8s resnest14d skresnet18 regnety_002 ghostnet_050 convnext_atto convnextv2_atto repvgg_a0
        mobilenetv4_conv_small mobilenetv3_small_050 botnet26t_256 lambda_resnet26t hgnetv2_b0 starnet_s1
        focalnet hrnet_w18_small eca_nfnet_l0
    """,
    19: """
        vit_tiny_patch16_224 deit_tiny_distilled_patch16_224 swin_tiny_patch4_window7_224 pit_ti_224 levit_128s
        xcit_nano_12_p16_224 cait_xxs24_224 poolformer_s12 gmlp_ti16_224 mobilevit_xxs mobilevitv2_050
        maxvit_pico_rw_256 pvt_v2_b0 edgenext_xx_small efficientvit_b0 coat_lite_tiny tiny_vit_5m_224
        sequencer2d_s tv-lraspp_mobilenet_v3_large tv-vit
    """,
    20: """
        alexnet_quarter resnet20_option_a unet_transpose unet_bilinear unet_gated edsr espcn unshuffle_prelu
        dcgan vae style_transfer nhwc_inverted volume3d siamese merges yolov8 yolov5 yolov7 retinanet ssdlite
        box_transformer tcn wavenet lstm_stacked lstm_bidirectional gru_bidirectional crnn seq2seq_attention
        conformer hifigan decoder_cache mixture_of_experts two_towers
    """,
    21: """
        bert-small bert-sdpa distilbert albert deberta-v2 mpnet gpt2 opt gpt-neox llama llama-sdpa mistral qwen2
        qwen3 gemma phi t5-encoder bart t5 clip-text clip-vision siglip-vision whisper-encoder wav2vec2
        segformer detr hf-vit
    """,
}

FIRST = [*vision.ROWS, *handmade.ROWS, *language.ROWS, *keras_table.ROWS]
_BY_NAME = {row.name: row for row in FIRST}
SECOND = [
    replace(_BY_NAME[name], name=f"{name}.dynamo", exporter="dynamo", opset=opset, fold=True)
    for opset, names in DYNAMO.items()
    for name in names.split()
]
ROWS: list[Row] = [*FIRST, *SECOND]

if len({row.name for row in ROWS}) < len(ROWS):
    raise ValueError("two rows of the zoo share a name")
