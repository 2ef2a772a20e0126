"""Operators whose axes stay: one reason for each family of them."""

from __future__ import annotations

from functools import partial

from onnxprune.coupling.spec import Spec, View, frozen, rule

REASONS = {
    "the number of its results depends on the values": (
        "NonZero Unique NonMaxSuppression com.microsoft::Unique com.microsoft::CropAndResize"
    ),
    "its values count positions": "Range com.microsoft::Range AffineGrid",
    "random numbers cannot be drawn for fewer positions alike": "RandomNormal RandomUniform Multinomial",
    "a signal of fixed length": "STFT MelWeightMatrix BlackmanWindow HammingWindow HannWindow",
    "tensors in a sequence or an optional are not followed": (
        "SequenceConstruct SequenceEmpty SequenceAt SequenceInsert SequenceErase SequenceLength SequenceMap"
        " SplitToSequence ConcatFromSequence Optional OptionalGetElement OptionalHasElement"
    ),
    "text and pictures are read whole": (
        "StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer ImageDecoder com.microsoft::Tokenizer"
    ),
    "a loss compares whole predictions": "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
    "its indices number all positions of the tensor": "MaxUnpool",
    "a determinant needs the whole matrix": "Det com.microsoft::Inverse",
    "the bits of an element spread over several positions": "BitCast",
    "its weights are packed in blocks of bits": ("com.microsoft::MatMulBnb4 com.microsoft::MatMulFpQ4"),
    "it generates tokens in a loop of its own": (
        "com.microsoft::BeamSearch com.microsoft::GreedySearch com.microsoft::Sampling com.microsoft::WhisperBeamSearch"
    ),
    "its heads, states and caches are laid out inside the operator": (
        "LinearAttention com.microsoft::LinearAttention"
        " com.microsoft::DecoderMaskedMultiHeadAttention com.microsoft::SparseAttention com.microsoft::AttnLSTM"
    ),
    "its channels are laid out in blocks for one processor: prune the file that this one was optimised from": (
        "com.microsoft.nchwc::Conv com.microsoft.nchwc::ReorderInput com.microsoft.nchwc::ReorderOutput"
        " com.microsoft.nchwc::MaxPool com.microsoft.nchwc::AveragePool com.microsoft.nchwc::GlobalMaxPool"
        " com.microsoft.nchwc::GlobalAveragePool com.microsoft.nchwc::Upsample"
    ),
    "it has no CPU kernel in ONNX Runtime, so that a cut could not be proven": (
        "com.microsoft::BiasSplitGelu com.microsoft::DecoderAttention com.microsoft::DecoderMaskedSelfAttention"
        " com.microsoft::GatedRelativePositionBias com.microsoft::GemmFastGelu com.microsoft::GemmFloat8"
        " com.microsoft::GroupNorm com.microsoft::NhwcFusedConv"
        " com.microsoft::LongformerAttention com.microsoft::NhwcConv com.microsoft::PackedAttention"
        " com.microsoft::PackedMultiHeadAttention com.microsoft::PagedAttention com.microsoft::RelativePositionBias"
        " com.microsoft::RemovePadding com.microsoft::RestorePadding com.microsoft::SkipGroupNorm"
    ),
}
BARRIERS = {name: reason for reason, names in REASONS.items() for name in names.split()}


def _barred(view: View, reason: str) -> Spec:
    return frozen(view, reason)


for _name, _reason in BARRIERS.items():
    rule(_name, family="barrier")(partial(_barred, reason=_reason))
