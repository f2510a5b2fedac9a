r"""A matrix product written into the compiled step, for sizes at which calling a library is mostly overhead.

    C[m, n] = sum_k A[m, k] B[k, n]

A tile of C stays in registers while k runs: at each k a few vectors of a row of B are loaded, and each entry of a
piece of A's column is multiplied into all of them. A may have any strides, so a transposed left factor (that of every
weight's gradient) is read where it lies, which a library cannot do without copying it first. A transposed right factor
(a weight on the way forward) is copied panel by panel.
"""

from __future__ import annotations

from typing import Any

from .torch_internals import product_kernel as internals

__all__ = ["ProductKernel", "written_out"]

# A strip of columns is at most 4 vectors wide, or 2. Of AVX-512's 32 registers a tile takes 24, of AVX2's 16 it takes
# 12. A panel of B, a strip wide and 512 deep, stays in the cache while rows of A pass by. The last vector, or square
# of a copy, ends where its matrix ends: it may lie over the one before it, in the same tile, with the same numbers.
_SOURCE = r"""
{{template.header().getvalue()}}
template <int ROWS, int COLS>
inline void {{name}}_tile(
    const float* __restrict__ A, const float* __restrict__ B, float* __restrict__ C,
    int64_t ldb, int64_t last, int64_t depth, bool more) {
    using Vec = at::vec::Vectorized<float>;
    constexpr int64_t width = Vec::size() < {{N}} ? Vec::size() : {{N}};
    Vec sums[ROWS * COLS], b[COLS];
    int64_t at[COLS];
    {{unroll}}
    for (int j = 0; j < COLS; ++j) at[j] = std::min<int64_t>(j * Vec::size(), last);
    {{unroll}}
    for (int i = 0; i < ROWS; ++i) {
        {{unroll}}
        for (int j = 0; j < COLS; ++j)
            sums[i * COLS + j] = more ? Vec::loadu(C + i * {{N}} + at[j], width) : Vec(0.0f);
    }
    for (int64_t k = 0; k < depth; ++k) {
        {{unroll}}
        for (int j = 0; j < COLS; ++j) b[j] = Vec::loadu(B + k * ldb + at[j], width);
        {{unroll}}
        for (int i = 0; i < ROWS; ++i) {
            const Vec a(A[i * {{lda}} + k * {{step}}]);
            {{unroll}}
            for (int j = 0; j < COLS; ++j) sums[i * COLS + j] = at::vec::fmadd(a, b[j], sums[i * COLS + j]);
        }
    }
    {{unroll}}
    for (int i = 0; i < ROWS; ++i) {
        {{unroll}}
        for (int j = 0; j < COLS; ++j) sums[i * COLS + j].store(C + i * {{N}} + at[j], width);
    }
}

{% if copied %}
template <int64_t LD>
inline void {{name}}_copy(const float* B, float* panel, int64_t width, int64_t depth) {
    constexpr int64_t lane = at::vec::Vectorized<float>::size();
    if (width < lane || depth < lane) {
        for (int64_t n = 0; n < width; ++n)
            for (int64_t k = 0; k < depth; ++k) panel[k * LD + n] = B[n * {{across}} + k];
        return;
    }
    for (int64_t column = 0; column < width; column += lane) {
        const int64_t n = std::min(column, width - lane);
        for (int64_t row = 0; row < depth; row += lane) {
            const int64_t k = std::min(row, depth - lane);
            at::vec::transpose_mxn<float, lane, lane>(B + n * {{across}} + k, {{across}}, panel + k * LD + n, LD);
        }
    }
}
{% endif %}

extern "C" {{export}}
{{kernel.def_kernel(inputs={"A": A, "B": B}, outputs={"C": C})}} {
    constexpr int64_t M = {{M}}, N = {{N}}, K = {{K}}, deep = 512, lane = at::vec::Vectorized<float>::size();
    constexpr int64_t vectors = (N + lane - 1) / lane, wide = lane == 16 ? 4 : 2, strips = (vectors + wide - 1) / wide;
    constexpr int COLS = (vectors + strips - 1) / strips, FEWER = COLS > 1 ? COLS - 1 : 1;
    constexpr int ROWS = std::min<int64_t>(M, COLS == 1 ? 12 : (lane == 16 ? 24 : 12) / COLS);
    constexpr int REST = M % ROWS == 0 ? ROWS : M % ROWS;
    constexpr int64_t tiles = (M + ROWS - 1) / ROWS;
    const float* left = &{{kernel.index(A, ["0", "0"])}};
    const float* right = &{{kernel.index(B, ["0", "0"])}};
    for (int64_t k = 0; k < K; k += deep) {
        const int64_t depth = std::min(deep, K - k);
        {{parallel}}
        {
            {% if copied %}
            alignas(64) float panel[deep * COLS * lane];
            int64_t copied = -1;
            {% endif %}
            {{shared}}
            for (int64_t index = 0; index < strips * tiles; ++index) {
                const int64_t strip = index / tiles, row = index % tiles * ROWS;
                const int64_t first = strip * vectors / strips, end = (strip + 1) * vectors / strips;
                const int64_t column = first * lane, width = std::min(end * lane, N) - column;
                const int64_t last = std::max<int64_t>(width - lane, 0);
                {% if copied %}
                if (strip != copied) {{name}}_copy<COLS * lane>(right + column * {{across}} + k, panel, width, depth);
                copied = strip;
                const float* b = panel;
                constexpr int64_t ldb = COLS * lane;
                {% else %}
                const float* b = right + k * {{down}} + column;
                constexpr int64_t ldb = {{down}};
                {% endif %}
                const float* a = left + row * {{lda}} + k * {{step}};
                float* c = C + row * N + column;
                const bool whole = row + ROWS <= M, more = k > 0;
                if (whole && end - first == COLS) {{name}}_tile<ROWS, COLS>(a, b, c, ldb, last, depth, more);
                else if (whole) {{name}}_tile<ROWS, FEWER>(a, b, c, ldb, last, depth, more);
                else if (end - first == COLS) {{name}}_tile<REST, COLS>(a, b, c, ldb, last, depth, more);
                else {{name}}_tile<REST, FEWER>(a, b, c, ldb, last, depth, more);
            }
        }
    }
}
"""


def written_out(a: Any, b: Any, bias: Any) -> Any:
    """The product of two of Inductor's nodes, plus a bias where there is one, as code."""
    factors = [
        internals.ExternKernel.require_stride1(internals.ExternKernel.realize_input(factor)) for factor in (a, b)
    ]
    product = ProductKernel(*factors).generate().output_node()
    product.data.data.allow_epilogue_fusion = False  # what follows is fused with what comes after it
    return product if bias is None else internals.add(product, bias)


_loaded = internals.lowering  # which the template's module needs before it
_Template: Any = internals.CppTemplate


class ProductKernel(_Template):
    """The product of two float32 buffers of Inductor's, the second with a stride of 1 one way or the other."""

    def __init__(self, a: Any, b: Any) -> None:
        layout = internals.FixedLayout(a.get_device(), a.get_dtype(), [a.get_size()[0], b.get_size()[1]])
        super().__init__("product", [a, b], layout, internals.parallel_num_threads())

    def render(self, kernel: Any, template_buffer_node: Any = None, **_: Any) -> str:
        """The source of one product, every size and stride a constant in it."""
        a, b = self.input_nodes
        threads = self.num_threads
        return self._template_from_string(_SOURCE).render(
            template=self, kernel=kernel, name=kernel.kernel_name, export=internals.get_export_declaration(),
            A=a, B=b, C=self.output_node if template_buffer_node is None else template_buffer_node,
            M=kernel.size(a, 0), K=kernel.size(a, 1), N=kernel.size(b, 1),
            lda=kernel.stride(a, 0), step=kernel.stride(a, 1), down=kernel.stride(b, 0), across=kernel.stride(b, 1),
            copied=int(b.get_stride()[1]) != 1, unroll=kernel.unroll_pragma(32),
            parallel=f"#pragma omp parallel num_threads({threads})" if threads > 1 else "",
            shared="#pragma omp for" if threads > 1 else "",
        )  # fmt: skip
