"""Image networks of torchvision and timm: small variants at reduced input sizes."""

from typing import Any

from row import Row, image


def timm(
    family: str, model: str, size: int = 64, opset: int = 17, free: str = "", fold: bool = True, **options: Any
) -> Row:
    """Row of one timm model; `free` and `size` as in `image`."""
    return Row(model, family, f"timm:{model}", image(size, free), opset=opset, fold=fold, options=options)


def classic(
    family: str, model: str, size: int = 64, opset: int = 17, free: str = "", fold: bool = True, **options: Any
) -> Row:
    """Row of one torchvision model, its name prefixed with `tv-`."""
    source = f"torchvision:{model}"
    return Row(f"tv-{model}", family, source, image(size, free), opset=opset, fold=fold, options=options)


def segmenter(model: str, size: int, opset: int, free: str = "") -> Row:
    """Row of one torchvision segmentation model without auxiliary head."""
    options = {"weights_backbone": None, "aux_loss": False, "num_classes": 5}
    return Row(
        f"tv-{model}",
        "segmentation",
        f"torchvision:{model}",
        image(size, free),
        opset=opset,
        options=options,
        output="out",
    )


VGG11 = [16, "M", 32, "M", 64, 64, "M", 128, 128, "M", 128, 128, "M"]
VOLO = {"img_size": 64, "layers": (1, 1, 2, 1), "embed_dims": (96, 192, 192, 192), "num_heads": (3, 6, 6, 6)}
MAXVIT = {
    **{"input_size": (64, 64), "stem_channels": 32, "block_channels": [32, 64], "block_layers": [1, 2]},
    **{"head_dim": 16, "stochastic_depth_prob": 0.0, "partition_size": 2},
}
MIXER = {"img_size": 64, "num_blocks": 4, "embed_dim": 128}
VIT = {"image_size": 64, "patch_size": 16, "num_layers": 2, "num_heads": 4, "hidden_dim": 96, "mlp_dim": 192}
SWIN = {
    "patch_size": [4, 4],
    "embed_dim": 48,
    "depths": [1, 1, 2, 1],
    "num_heads": [2, 4, 8, 16],
    "window_size": [7, 7],
}

TORCHVISION = [
    classic("resnet", "resnet18", opset=11),
    classic("resnet", "resnet50", opset=13, free="b", fold=False),
    classic("mobilenet", "mobilenet_v2", opset=12),
    classic("densenet", "densenet121", opset=13, fold=False),
    classic("shufflenet", "shufflenet_v2_x1_0", opset=11),
    classic("inception", "googlenet", 96, 15, init_weights=False, aux_logits=False),
    classic("efficientnet", "efficientnet_b0", opset=16),
    classic("mobilenet", "mobilenet_v3_small", free="b", fold=False),
    classic("mobilenet", "mobilenet_v3_large", opset=14),
    classic("mnasnet", "mnasnet0_5", opset=12, fold=False),
    classic("squeezenet", "squeezenet1_1", opset=11),
    classic("shufflenet", "shufflenet_v2_x0_5", free="b", fold=False),
    classic("resnext", "resnext50_32x4d", opset=15),
    classic("inception", "inception_v3", 128, 13, init_weights=False, aux_logits=False),
    classic("efficientnet", "efficientnet_v2_s", opset=17, fold=False),
    classic("regnet", "regnet_x_400mf", opset=13),
    classic("regnet", "regnet_y_400mf", opset=18, free="b"),
    classic("convnext", "convnext_tiny", opset=18),
    Row("tv-vit", "vit", "torchvision:vision_transformer:VisionTransformer", image(64, "b"), options=VIT),
    Row("tv-swin", "swin", "torchvision:swin_transformer:SwinTransformer", image(64), opset=17, options=SWIN),
    classic("swin", "swin_v2_t", 64, 16),
    Row("tv-maxvit", "maxvit", "torchvision:maxvit:MaxVit", image(64), opset=17, options=MAXVIT),
    segmenter("fcn_resnet50", 64, 11),
    segmenter("deeplabv3_mobilenet_v3_large", 64, 16, "bhw"),
    segmenter("lraspp_mobilenet_v3_large", 64, 12, "bhw"),
]

CONVOLUTIONAL = [
    Row("convmixer", "convmixer", "timm:convmixer:ConvMixer", image(64), options={"dim": 128, "depth": 6}),
    timm("resnet", "resnet18"),
    timm("resnet", "resnet26d", opset=13, fold=False, layers=(1, 1, 1, 1)),
    timm("resnet", "resnet26t", opset=13, free="bhw", layers=(1, 1, 1, 1)),
    timm("resnet", "resnetblur18", opset=11),
    timm("resnet", "wide_resnet50_2", layers=(1, 1, 1, 1)),
    timm("resnet", "resnetv2_18", opset=14, fold=False),
    timm("resnet", "resnetaa34d", opset=18, layers=(1, 1, 1, 1)),
    timm("seresnet", "seresnet18", opset=13),
    timm("seresnet", "legacy_seresnet18", opset=15),
    timm("seresnet", "seresnext26d_32x4d", layers=(1, 1, 1, 1)),
    timm("seresnet", "ecaresnet26t", opset=14, layers=(1, 1, 1, 1)),
    timm("gcresnet", "gcresnext26ts", opset=16),
    Row("cbam_resnet18", "cbam", "timm:resnet18", image(64), options={"block_args": {"attn_layer": "cbam"}}),
    timm("skresnet", "skresnet18", opset=13),
    timm("resnest", "resnest14d"),
    timm("resnest", "resnest50d_1s4x24d", opset=14, layers=(1, 1, 2, 1)),
    timm("res2net", "res2net50_14w_8s", opset=18, layers=(1, 2, 2, 1)),
    timm("res2net", "res2net50d", opset=15, layers=(1, 1, 2, 1)),
    timm("densenet", "densenet121", free="b"),
    timm("densenet", "densenetblur121d", opset=13),
    timm("dpn", "dpn48b", opset=16),
    timm("dpn", "dpn68", fold=False),
    timm("dla", "dla46_c", opset=13),
    timm("dla", "dla34", fold=False),
    timm("hrnet", "hrnet_w18_small", opset=18),
    timm("hrnet", "hrnet_w18_small_v2", opset=13, fold=False),
    timm("vgg", "repvgg_a0", opset=15),
    timm("vgg", "mobileone_s0", fold=False),
    timm("inception", "inception_next_atto"),
    timm("xception", "xception41"),
    timm("mobilenet", "mobilenetv1_100", opset=11),
    timm("mobilenet", "mobilenetv4_conv_small", opset=18),
    timm("mobilenet", "mobilenetv4_hybrid_medium", opset=14),
    timm("mobilenet", "mobilenetv3_small_050", opset=18, free="bhw"),
    timm("mobilenet", "lcnet_050", opset=15),
    timm("mobilenet", "tinynet_e", fold=False),
    timm("mobilenet", "hardcorenas_a", opset=16),
    timm("mobilenet", "mnasnet_small"),
    timm("mobilenet", "fbnetc_100", opset=13),
    timm("mobilenet", "spnasnet_100"),
    timm("mobilenet", "mixnet_s", opset=14, fold=False),
    timm("mobilenet", "mobilenet_edgetpu_v2_xs", opset=18),
    timm("ghostnet", "ghostnet_050", opset=15),
    timm("ghostnet", "ghostnetv2_100"),
    timm("ghostnet", "repghostnet_050", opset=16, fold=False),
    timm("efficientnet", "efficientnet_lite0", opset=11),
    timm("efficientnet", "tf_efficientnet_b0", opset=13),
    timm("efficientnet", "gc_efficientnetv2_rw_t", opset=13),
    timm("regnet", "regnetx_002", opset=20),
    timm("regnet", "regnety_002", opset=13, free="b"),
    timm("regnet", "regnetz_005", fold=False),
    timm("rexnet", "rexnet_100", opset=18),
    timm("rexnet", "rexnetr_100", opset=15, fold=False),
    timm("selecsls", "selecsls42b"),
    timm("tresnet", "tresnet_m", opset=16, layers=[1, 1, 2, 1]),
    timm("vovnet", "ese_vovnet19b_slim_dw"),
    timm("vovnet", "ese_vovnet19b_slim", opset=13, fold=False),
    timm("csp", "cspresnet50", opset=14, fold=False),
    timm("csp", "cspdarknet53", opset=18),
    timm("csp", "cs3darknet_s"),
    timm("nfnet", "eca_nfnet_l0", depths=(1, 1, 2, 1), channels=(256, 256, 512, 512)),
    timm("nfnet", "nf_regnet_b0", opset=13),
    timm("nfnet", "dm_nfnet_f0", depths=(1, 1, 1, 1), channels=(256, 256, 512, 512)),
    timm("hgnet", "hgnetv2_b0", opset=14),
    timm("hgnet", "hgnet_tiny", opset=18, fold=False),
    timm("convnext", "convnext_atto", opset=18),
    timm("convnext", "convnext_atto_ols", opset=15),
    timm("convnext", "convnextv2_atto", opset=13),
    timm("convnext", "convnext_femto", conv_mlp=True, free="bhw"),
    timm("convnext", "rdnet_tiny", opset=16),
    timm("convnext", "mambaout_femto"),
    timm("convnext", "starnet_s1", opset=13, fold=False),
    timm("convnext", "fasternet_t0"),
    Row("focalnet", "focalnet", "timm:focalnet:FocalNet", image(64), options={"depths": (1, 1, 2, 1), "embed_dim": 48}),
    Row(
        "focalnet_lrf",
        "focalnet",
        "timm:focalnet:FocalNet",
        image(64),
        options={"focal_levels": (3, 3, 3, 3), "embed_dim": 32},
    ),
    Row("vgg11_narrow", "vgg", "timm:vgg:VGG", image(224), opset=11, options={"cfg": VGG11, "mlp_ratio": 0.0625}),
    timm("vgg", "vgg11_bn", 224, 13, fold=False, mlp_ratio=0.03125, num_classes=10),
    timm("repvit", "repvit_m0_9", opset=18, fold=False),
    timm("lambda", "lambda_resnet26t", 128, 15, img_size=128),
    timm("lambda", "lambda_resnet26rpt_256", 128, img_size=128),
    timm("botnet", "botnet26t_256", 128, 16, img_size=128),
    timm("botnet", "eca_botnext26ts_256", 128, 13, img_size=128),
    Row("halonet26t", "halonet", "timm:halonet26t", image(256), "dynamo", 18),
    Row("sehalonet33ts", "halonet", "timm:sehalonet33ts", image(256, "b"), "dynamo", 19),
    timm("bat", "bat_resnext26ts", 256),
]

TRANSFORMERS = [
    Row("mixer", "mlp", "timm:mlp_mixer:MlpMixer", image(64), opset=13, options=MIXER),
    timm("vit", "vit_tiny_patch16_224", opset=13, img_size=64, depth=4),
    timm(
        "vit", "vit_small_patch32_224", opset=14, free="b", img_size=64, depth=3, class_token=False, global_pool="avg"
    ),
    timm("vit", "deit_tiny_distilled_patch16_224", free="b", img_size=64, depth=4),
    timm("vit", "deit3_small_patch16_224", opset=14, img_size=64, depth=3),
    timm("vit", "vit_tiny_r_s16_p8_224", opset=18, img_size=64, depth=4),
    timm("vit", "vit_relpos_small_patch16_224", opset=15, img_size=64, depth=3),
    timm("vit", "vit_small_patch14_dinov2", 56, img_size=56, depth=3),
    timm("vit", "vit_small_patch14_reg4_dinov2", 56, 14, img_size=56, depth=3),
    timm("vit", "vit_base_patch16_siglip_224", opset=16, img_size=64, depth=2, embed_dim=384, num_heads=6),
    timm("vit", "vit_medium_patch16_gap_240", img_size=64, depth=3),
    timm(
        "vit",
        "samvit_base_patch16",
        opset=13,
        img_size=64,
        depth=3,
        global_attn_indexes=(2,),
        embed_dim=384,
        num_heads=6,
    ),
    timm("beit", "beit_base_patch16_224", img_size=64, depth=2, embed_dim=384, num_heads=6),
    timm("beit", "eva02_tiny_patch14_224", 56, 14, img_size=56, depth=4),
    timm(
        "swin",
        "swin_tiny_patch4_window7_224",
        112,
        18,
        img_size=112,
        depths=(1, 1, 2, 1),
        embed_dim=48,
        num_heads=(2, 4, 8, 16),
    ),
    timm(
        "swin",
        "swinv2_tiny_window8_256",
        128,
        15,
        img_size=128,
        depths=(1, 1, 2, 1),
        embed_dim=48,
        num_heads=(2, 4, 8, 16),
    ),
    timm(
        "swin", "swinv2_cr_tiny_ns_224", 112, img_size=112, depths=(1, 1, 2, 1), embed_dim=48, num_heads=(2, 4, 8, 16)
    ),
    timm("pit", "pit_ti_224", 224, 16),
    timm("pit", "pit_ti_distilled_224", 224, opset=13),
    timm("levit", "levit_128s", 224, fold=False),
    timm("levit", "levit_conv_128s", 224, 13),
    timm("xcit", "xcit_nano_12_p16_224", depth=4),
    timm("xcit", "xcit_nano_12_p8_224", opset=14, depth=3),
    timm("cait", "cait_xxs24_224", opset=14, img_size=64, depth=4),
    timm("poolformer", "poolformer_s12", opset=18),
    timm("poolformer", "poolformerv2_s12", opset=15),
    timm("poolformer", "caformer_s18"),
    timm("mlp", "gmixer_12_224", opset=13, img_size=64),
    timm("mlp", "resmlp_12_224", img_size=64),
    timm("mlp", "gmlp_ti16_224", opset=14, img_size=64),
    timm("crossvit", "crossvit_tiny_240", 240, 18),
    timm("crossvit", "crossvit_9_dagger_240", 240, 14),
    timm("twins", "twins_pcpvt_small", opset=15, img_size=64, depths=(1, 1, 2, 1)),
    timm("twins", "twins_svt_small", img_size=64, depths=(1, 1, 2, 1)),
    timm("pvt", "pvt_v2_b0", opset=16),
    timm("pvt", "pvt_v2_b2_li", 224, fold=False, depths=(1, 1, 2, 1)),
    timm("efficientformer", "efficientformer_l1", 224, 13),
    timm("efficientformer", "efficientformerv2_s0", 224),
    timm("edgenext", "edgenext_xx_small", opset=14),
    timm("edgenext", "edgenext_small_rw", opset=13),
    timm("fastvit", "fastvit_t8", opset=18, fold=False),
    timm("fastvit", "fastvit_sa12", opset=15),
    timm("visformer", "visformer_tiny", 224),
    timm("nest", "nest_tiny_jx", 224, 16),
    Row("volo", "volo", "timm:volo:VOLO", image(64), "dynamo", 18, options=VOLO),
    timm("hiera", "hiera_tiny_224", 224, stages=(1, 1, 2, 1)),
    timm("hiera", "hieradet_small", 128, 13, embed_dim=48),
    timm("davit", "davit_tiny", depths=(1, 1, 2, 1), embed_dims=(48, 96, 192, 384), num_heads=(2, 4, 8, 16)),
    timm("nextvit", "nextvit_small", opset=14, depths=(1, 2, 5, 2)),
    timm("tinyvit", "tiny_vit_5m_224", 64, 18),
    timm("sequencer", "sequencer2d_s", 64, 15, layers=(1, 1, 2, 1)),
    timm("efficientvit", "efficientvit_b0"),
    timm("efficientvit", "efficientvit_m0", 224, 16, fold=False),
    timm("mobilevit", "mobilevit_xxs"),
    timm("mobilevit", "mobilevit_s", opset=13, fold=False),
    timm("mobilevit", "mobilevitv2_050", opset=13),
    timm("maxvit", "maxvit_pico_rw_256", 128, img_size=128),
    timm("maxvit", "maxvit_rmlp_pico_rw_256", 128, 14, img_size=128),
    timm("maxvit", "maxxvit_rmlp_nano_rw_256", 128, 18, img_size=128),
    timm("coatnet", "coatnet_nano_rw_224", 128, 15, img_size=128),
    timm("coatnet", "coatnext_nano_rw_224", 128, img_size=128),
    timm("coat", "coat_tiny", 64, 16, img_size=64),
    timm("coat", "coat_lite_tiny", 64, img_size=64),
    timm("convit", "convit_tiny", 64, 13, img_size=64),
    timm("tnt", "tnt_s_legacy_patch16_224", 64, img_size=64, depth=4),
    timm("gcvit", "gcvit_xxtiny", 224, 14),
    timm("mvitv2", "mvitv2_tiny", 64, 18, img_size=64),
    timm("swiftformer", "swiftformer_xs", 64, 15),
    timm("shvit", "shvit_s1", 128),
    timm("convnext", "convnext_zepto_rms", opset=16),
]

ROWS: list[Row] = [*TORCHVISION, *CONVOLUTIONAL, *TRANSFORMERS]
