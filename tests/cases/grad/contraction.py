"""Rows of ``grad/rules/contraction.py``."""

from __future__ import annotations

from support.gradients import f, row

ROWS = [
    *(
        row("MatMul", a, b, note="x".join(str(len(o.shape)) for o in (a, b)) + tag)
        for a, b, tag in [
            (f(3, 4), f(4, 5), ""),
            (f(4), f(4), ""),
            (f(4), f(4, 5), ""),
            (f(3, 4), f(4), ""),
            (f(4), f(2, 4, 5), ""),
            (f(2, 3, 4), f(4), ""),
            (f(2, 3, 4), f(4, 5), ""),
            (f(2, 3, 4), f(2, 4, 5), ""),
            (f(3, 4), f(2, 4, 5), ""),
            (f(2, 1, 3, 4), f(5, 4, 2), "-broadcast"),
            (f(2, 3, 4, free=(0,)), f(4, 5), "-free"),
        ]
    ),
    *(
        row(
            "Gemm",
            f(*((4, 3) if ta else (3, 4))),
            f(*((5, 4) if tb else (4, 5))),
            f(5),
            note=f"{ta}{tb}",
            transA=ta,
            transB=tb,
        )
        for ta in (0, 1)
        for tb in (0, 1)
    ),
    row("Gemm", f(3, 4), f(4, 5), f(3, 1), note="scaled", alpha=0.5, beta=2.0),
    row("Einsum", f(2, 3, 4), f(2, 4, 5), equation="bij,bjk->bik"),
    row("Einsum", f(2, 3, 4), f(3, 5), note="implicit", equation="bij,ik"),
    row("Einsum", f(2, 6, 3, 4), f(2, 6, 4, 5), note="ellipsis", equation="...ij,...jk->...ik"),
    row("Einsum", f(3, 4), note="sum", equation="ij->i"),
    row("Einsum", f(2, 3), f(3, 4), f(4, 2), note="three", equation="ij,jk,kl->il"),
]
