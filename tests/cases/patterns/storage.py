"""Patterns of ways to store weights."""

from __future__ import annotations

from support.patterns import Pattern, as_constants, as_inputs

ROWS = [
    Pattern(
        "quantised by pairs of nodes",
        "w1 = %6x3x1x1:int8; s1 = %+6; wd = DequantizeLinear<axis=0>(w1, s1); a = Conv(x, wd); "
        "q = QuantizeLinear(a, @0.1, @0:int8); d = DequantizeLinear(q, @0.1, @0:int8); "
        "w2 = %4x6x1x1:int8; s2 = %+4; we = DequantizeLinear<axis=0>(w2, s2); y = Conv(d, we)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "quantised operator",
        "q = QuantizeLinear(x, @0.1, @0:int8); w1 = %6x3x1x1:int8; "
        "c = QLinearConv(q, @0.1, @0:int8, w1, @0.05, @0:int8, @0.5, @0:int8); w2 = %4x6x1x1:int8; "
        "e = QLinearConv(c, @0.5, @0:int8, w2, @0.05, @0:int8, @2.0, @0:int8); "
        "y = DequantizeLinear(e, @2.0, @0:int8)",
        "w1 6",
        1.0,
    ),
    Pattern(
        "half precision",
        "w1 = %6x3x1x1:float16; a = Conv(x, w1); r = Relu(a); y = Conv(r, %4x6x1x1:float16)",
        "w1 6",
        1.0,
        inputs="float16[1,3,4,4] x",
        outputs="float16[] y",
    ),
    Pattern(
        "double precision",
        "w1 = %6x5:double; a = MatMul(x, w1); r = Tanh(a); y = MatMul(r, %5x3:double)",
        "w1 5",
        1.0,
        inputs="double[2,4,6] x",
        outputs="double[] y",
    ),
    Pattern(
        "initializers that are inputs (IR 3)",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=8,
        ir_version=3,
        change=as_inputs,
    ),
    Pattern(
        "weights in Constant nodes",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        change=as_constants,
    ),
    Pattern(
        "opset 7",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=7,
    ),
    Pattern(
        "opset 8",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=8,
    ),
    Pattern(
        "opset 9",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=9,
    ),
    Pattern(
        "opset 10",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=10,
    ),
    Pattern(
        "opset 11",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=11,
    ),
    Pattern(
        "opset 12",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=12,
    ),
    Pattern(
        "opset 13",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=13,
    ),
    Pattern(
        "opset 15",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=15,
    ),
    Pattern(
        "opset 17",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=17,
    ),
    Pattern(
        "opset 18",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=18,
    ),
    Pattern(
        "opset 20",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=20,
    ),
    Pattern(
        "opset 22",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=22,
    ),
    Pattern(
        "opset 24",
        "w1 = %6x3x1x1; a = Conv(x, w1, %6); r = Relu(a); w2 = %5x6x1x1; b = Conv(r, w2); "
        "e = Add(b, %5x1x1); y = Conv(e, %4x5x1x1)",
        "w1 6; w2 5",
        1.0,
        opset=24,
    ),
]
