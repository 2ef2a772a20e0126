"""Networks of the `nets` folder."""

from dataclasses import replace

from row import Row, image

STEPS = ("steps:int200[batch=1,time=12]",)
SIGNAL = ("steps:float[batch=1,time=12,12]",)
MELS = ("mels:float[1,64,40]",)
PAIR = ("left:float[1,3,32,32]", "right:float[1,3,32,32]")
TRANSLATE = ("source:int200[batch=1,source=9]", "target:int200[batch=1,target=7]")
CACHE = ("ids:int300[batch=1,step=3]", "position:int9[batch=1,step=3]", "past:float[2,2,batch=1,2,past=5,8]")
FIXED_CACHE = ("ids:int300[1,3]", "position:int9[1,3]", "past:float[2,2,1,2,5,8]")


def net(name: str, family: str, target: str, inputs: tuple[str, ...], opset: int = 17, **options: object) -> Row:
    """Row of one hand-written network, `target` being module:Class."""
    return Row(name, family, f"nets:{target}", inputs, opset=opset, options=options)


IMAGES = [
    net("alexnet_quarter", "alexnet", "image:AlexNet", image(127, "b"), 11),
    net("resnet20_option_a", "resnet", "image:OptionA", image(32), 11),
    replace(net("resnet20_option_a_dynamic", "resnet", "image:OptionA", image(32, "bhw"), 16), fold=False),
    net("unet_transpose", "segmentation", "image:UNet", image(64), 11),
    replace(net("unet_nearest", "segmentation", "image:UNet", image(64, "bhw"), 13, up="nearest"), fold=False),
    net("unet_bilinear", "segmentation", "image:UNet", image(64), 16, up="bilinear"),
    net("unet_shuffle", "segmentation", "image:UNet", image(64, "b"), 17, up="shuffle"),
    net("unet_gated", "segmentation", "image:UNet", image(64), 18, gate=True),
    net("edsr", "restoration", "image:Edsr", image(24, "bhw"), 13),
    net("espcn", "restoration", "image:Espcn", image(24, "hw", 1), 11),
    net("unshuffle_prelu", "restoration", "image:Unshuffle", image(32)),
    replace(net("dcgan", "generator", "image:Generator", ("latent:float[batch=2,64]",), 13), fold=False),
    net("vae", "generator", "image:AutoEncoder", (*image(28, "b", 1), "noise:float[batch=1,20]"), 14),
    net("style_transfer", "generator", "image:StyleTransfer", (*image(32), "style:float[1,8]")),
    net("nhwc_inverted", "layout", "image:ChannelsLast", ("image:float[1,16,16,3]",), 13),
    net("nhwc_inverted_dynamic", "layout", "image:ChannelsLast", ("image:float[batch=2,16,16,3]",), 18),
    net("volume3d", "volume", "image:Volume", ("volume:float[batch=1,1,8,16,16]",)),
    net("siamese", "siamese", "image:Siamese", PAIR, 13),
    replace(net("merges", "merges", "image:Merges", image(32), 13), fold=False),
    net("merges_opset18", "merges", "image:Merges", image(32, "bhw"), 18),
]

DETECTORS = [
    net("yolov8", "detection", "detect:Yolo", image(64)),
    replace(net("yolov8_dynamic", "detection", "detect:Yolo", image(64, "bhw"), 16), fold=False),
    replace(net("yolov8_half", "half", "detect:Yolo", image(64)), half=True),
    net("yolov5", "detection", "detect:Yolo", image(64), 12, block="c3", head="anchor"),
    net("yolov7", "detection", "detect:Yolo", image(64, "b"), 13, block="elan", head="anchor"),
    net("retinanet", "detection", "detect:Pyramid", image(64, "bhw"), 13),
    replace(net("ssdlite", "detection", "detect:SsdLite", image(64, "b"), 11), fold=False),
    net("box_transformer", "detection", "detect:BoxTransformer", image(64)),
]

SEQUENCES = [
    net("tcn", "sequence", "sequence:Tcn", ("signal:float[batch=1,8,time=40]",), 13),
    net("wavenet", "sequence", "sequence:WaveNet", ("wave:float[batch=1,1,time=64]",)),
    net("lstm_stacked", "recurrent", "sequence:Recurrent", STEPS, 14, cell="lstm", layers=3, both=False),
    net("lstm_bidirectional", "recurrent", "sequence:Recurrent", STEPS, 11, cell="lstm", every=True),
    net(
        "lstm_state",
        "recurrent",
        "sequence:Recurrent",
        ("steps:float[1,12,12]",),
        cell="lstm",
        tokens=False,
        state=True,
        both=False,
    ),
    net("gru_bidirectional", "recurrent", "sequence:Recurrent", SIGNAL, 14, cell="gru", tokens=False),
    net(
        "gru_single",
        "recurrent",
        "sequence:Recurrent",
        ("steps:int200[1,12]",),
        cell="gru",
        layers=1,
        both=False,
        every=True,
    ),
    net("rnn_classifier", "recurrent", "sequence:Recurrent", STEPS, 13, cell="rnn", layers=2, both=False),
    net("crnn", "recurrent", "sequence:Crnn", ("line:float[1,1,32,48]",), 14),
    net("seq2seq_attention", "recurrent", "sequence:Seq2Seq", TRANSLATE),
    replace(net("conformer", "speech", "sequence:Conformer", ("mels:float[batch=1,time=64,40]",)), fold=False),
    net("conformer_static", "speech", "sequence:Conformer", MELS, 13),
    replace(net("conformer_half", "half", "sequence:Conformer", MELS), half=True),
    net("hifigan", "speech", "sequence:HiFiGan", ("mels:float[batch=1,40,time=16]",)),
    net("decoder_cache", "decoder", "sequence:CachedDecoder", CACHE),
    net("decoder_cache_static", "decoder", "sequence:CachedDecoder", FIXED_CACHE, 14),
    net("mixture_of_experts", "dense", "sequence:MixtureOfExperts", ("x:float[batch=2,16]",)),
    net("two_towers", "dense", "sequence:TwoTowers", ("dense:float[batch=2,13]", "sparse:int50[batch=2,4]"), 13),
]

ROWS: list[Row] = [*IMAGES, *DETECTORS, *SEQUENCES]
