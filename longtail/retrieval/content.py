"""Item content as sparse vectors: tf-idf over the words of title and text, category path and brand."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import scipy.sparse as sp

from longtail.events import Catalogue

_WORD = re.compile(r"[a-z0-9_]+")


def content_matrix(catalogue: Catalogue, max_share: float = 0.2) -> sp.csr_matrix:
    """Rows of unit length, csr float32 [I, V].

    Tokens of one item only, or of more than `max_share` of all items, tell nothing and are left out.
    """
    frame = catalogue.frame
    owner: list[int] = []
    tokens: list[str] = []
    for column in ("title", "text"):
        for i, text in enumerate(frame[column]):
            if isinstance(text, str):
                words = set(_WORD.findall(text.lower()))
                owner.extend([i] * len(words))
                tokens.extend(words)
    for i, path in enumerate(frame["category"]):
        if isinstance(path, str):
            parts = path.split("/")
            owner.extend([i] * len(parts))
            tokens.extend("category=" + "/".join(parts[: n + 1]) for n in range(len(parts)))
    for i, brand in enumerate(frame["brand"]):
        if isinstance(brand, str):
            owner.append(i)
            tokens.append("brand=" + brand)
    n = len(frame)
    if not tokens:
        return sp.csr_matrix((n, 1), dtype=np.float32)
    code, _ = pd.factorize(np.array(tokens, object), sort=True)
    pairs = np.unique(np.array(owner, np.int64) * (code.max() + 1) + code)
    item, code = pairs // (code.max() + 1), pairs % (code.max() + 1)
    count = np.bincount(code)
    useful = (count >= 2) & (count <= max(max_share * n, 3))
    keep = useful[code]
    if not keep.any():
        return sp.csr_matrix((n, 1), dtype=np.float32)
    renumber = np.cumsum(useful) - 1
    weight = np.log(n / count[code[keep]])
    x = sp.csr_matrix((weight, (item[keep], renumber[code[keep]])), shape=(n, int(useful.sum())))
    norm = np.sqrt(np.asarray(x.multiply(x).sum(1)).ravel())
    return (sp.diags(1 / np.maximum(norm, 1e-9)) @ x).tocsr().astype(np.float32)
