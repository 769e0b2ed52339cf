// The table of kernels: what the model computes with. One table is chosen once per process; which one, is part of
// the numeric profile.
//
// The rule behind every entry (docs/architecture.md, "The same bits"): the result of a row depends on that row and
// the weights alone. One dot instruction, one order of accumulation along K, whatever the number of rows, the
// neighbours, or how a caller splits rows and columns over threads.
#ifndef CONCLAVE_MOE_KERNELS_KERNELS_H_
#define CONCLAVE_MOE_KERNELS_KERNELS_H_

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// What products are computed in. kF32: float32 over the stored weights, the oracle. kBF16: inputs of matrix
// products rounded to bfloat16, products of bfloat16 pairs accumulated in float32. kF8, on accelerators alone: the
// routed experts' inputs are quantised to e4m3 with a scale per row and 128 values (DeepSeek-V3, section 3.3.2).
// kBF16x3: inputs of matrix products (and float32 weights) as the sum of three bfloat16, which are float32's 24 bits,
// all else as kF32: for dot units that take bfloat16 alone, where float32 is asked for. kInt8: as kBF16, but that
// inputs of products with INT8 and INT4 weights are quantised to 8-bit integers with a scale per row and 128 values, as
// long as the weights' scales are for whole groups of 32; such a product has the same bits in every instruction set, so
// that whatever is fastest for a number of rows may compute it. kInt8F32: as kF32 (with AMX kBF16x3), but for such
// products.
enum class Compute : uint8_t { kF32 = 1, kBF16 = 2, kF8 = 3, kBF16x3 = 4, kInt8 = 5, kInt8F32 = 6 };
absl::string_view Name(Compute compute);

// One row of scores over a paged latent KV cache. All pointers are to float32 but `pages`.
struct MlaAttentionArgs {
  const float* query;        // [heads, latent + rope]: the absorbed query, then its rotated part
  int64_t query_stride;      // floats between heads, >= latent + rope
  const void* const* pages;  // page p holds tokens [p * page_tokens, (p + 1) * page_tokens), rows of latent + rope
  DType cache_dtype;         // F32, BF16, or F8_E4M3: rows as in moe/tensor/latent_row.h
  int page_tokens;
  int64_t tokens;  // positions [0, tokens) are attended to
  int heads;
  int latent;
  int rope;
  float scale;         // softmax scale, YaRN's mscale² in it
  float* out;          // [heads, latent]: softmax-weighted sum of the latents
  int64_t out_stride;  // floats between heads, >= latent
  float* scratch;      // kMlaScratchFloats(...) floats, owned by the calling thread
};
// KV ranges are walked in chunks of this many tokens that start at position zero and merge in ascending order.
inline constexpr int kAttentionChunkTokens = 64;
// Floats that one thread needs in MlaAttentionArgs::scratch.
int64_t MlaScratchFloats(int heads, int latent, int rope);

// The forms that a row packed for kInt8 and kInt8F32 has: of its values, and of 8-bit integers. Other tables have one
// form and ask for none.
using RowForms = uint8_t;
inline constexpr RowForms kValueForm = 1, kIntegerForm = 2;
// What the integers' tables read for products with `w`.
inline RowForms FormOf(const WeightView& w) {
  constexpr int64_t kGroup = 32;
  const bool whole_groups = w.block_cols >= w.cols() || w.block_cols % kGroup == 0;
  return w.code != WeightCode::kPlain && whole_groups ? kIntegerForm : kValueForm;
}

// Rows of x in the form in which a table's products read them: packed once, read by every thread that computes some
// columns. How is the table's own matter. Non-owning; `data` has Kernels::packed_bytes(rows, cols), of any alignment.
struct PackedRows {
  void* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  RowForms forms = kValueForm | kIntegerForm;  // that are filled in and may be read
};
// Where a call that fills some of the rows or columns of PackedRows begins, it begins at a multiple of these.
inline constexpr int64_t kPackedRowsMultiple = 80;
inline constexpr int64_t kPackedColumnsMultiple = 32;  // at least; Kernels::columns_multiple has a table's own

// Where tables that have no better place keep gate and up: [rows, N] F32 each.
struct SwigluScratch {
  MatView gate;
  MatView up;
};

// Pure functions; thread-safe; no allocation. All activations are float32 unless a view says otherwise.
struct Kernels {
  absl::string_view isa;  // "reference", "scalar", "avx2", "avx512", "avx512-bf16", "amx"
  Compute compute;

  // y[m, n] = Σ_k x[m, k] · W[n, k] for output columns [n_begin, n_end). x: [M, K] F32 or BF16; y: [M, N] F32.
  // In kBF16, x is rounded to BF16 element by element first; so are F32 weights, in registers. F16 weights are not:
  // their products are float32. F8_E4M3 is exact as BF16; block scales multiply float32 sums over their blocks.
  // REQUIRES: x.cols == w.cols(), y.cols == w.rows(), and for block-quantised W any n_begin.
  void (*linear)(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y);
  // The bytes that PackedRows take: proportional to their number.
  int64_t (*packed_bytes)(int64_t rows, int64_t cols);
  // Rows [begin, end) of out: row i is row indexes[i] of x, or i where indexes is null. x: [M, cols] F32 or BF16.
  void (*pack)(ConstMatView x, const int32_t* indexes, int64_t begin, int64_t end, const PackedRows& out);
  // As `linear`, of the very same bits.
  void (*linear_packed)(const PackedRows& x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y);
  // out[m, n] = silu(Σ_k x[m, k] · G[n, k]) · (Σ_k x[m, k] · U[n, k]), packed, for columns [n_begin, n_end) of out
  // [M, N]; the products are float32 until they are packed. REQUIRES: gate and up of one shape and dtype.
  void (*swiglu_packed)(const PackedRows& x, const WeightView& gate, const WeightView& up, int64_t n_begin,
                        int64_t n_end, const SwigluScratch& scratch, const PackedRows& out);
  // y[m, k] = Σ_n x[m, n] · W[n, k] for columns [k_begin, k_end): W used the other way round, n ascending.
  // x: [M, N] F32, y: [M, K] F32. MLA's absorbed query needs it (W_UK).
  void (*linear_transposed)(ConstMatView x, const WeightView& w, int64_t k_begin, int64_t k_end, MatView y);
  // out[i] = x[i] · weight[i] / sqrt(mean(x²) + eps), for each row. x, out: [M, N] F32, may be the same view.
  void (*rms_norm)(ConstMatView x, absl::Span<const float> weight, float eps, MatView out);
  // out = silu(gate) ⊙ up, each [M, N] F32; `out` may be `gate`.
  void (*silu_mul)(ConstMatView gate, ConstMatView up, MatView out);
  // Rounds x [M, N] F32 to the dtype of out (F32 copies, BF16 to nearest even) or widens BF16 x to F32 out. In
  // "avx512-bf16" subnormal numbers become zero, as they would in its dot product.
  void (*convert)(ConstMatView x, MatView out);
  // acc[j] += weight · row[j]. row is F32 or BF16; acc float32 [n]. One multiply-add per element.
  void (*axpy)(float weight, const void* row, DType row_dtype, int64_t n, float* acc);
  // One query row (all heads) of MLA in absorbed form.
  void (*mla_attention)(const MlaAttentionArgs& args);
  // Of the columns of PackedRows that swiglu_packed fills: a multiple of kPackedColumnsMultiple.
  int64_t columns_multiple = kPackedColumnsMultiple;
};

// The plain loops: the oracle of every other table.
const Kernels& ReferenceKernels(Compute compute);

// The fastest table that this CPU runs. `forced_isa` names one ("scalar", "avx2", "avx512", "avx512-bf16", "amx";
// empty: choose); FAILED_PRECONDITION where this CPU cannot run it, INVALID_ARGUMENT for an unknown name or one that
// has no table for `compute`: kBF16x3 is AMX's alone, and kF32 is not among what dot units do. kBF16 without bfloat16
// dot instructions emulates them in float32 with the same roundings of the inputs.
absl::StatusOr<const Kernels*> CpuKernels(Compute compute, absl::string_view forced_isa);
// Whether this CPU has bfloat16 dot products: `--compute auto` means bf16 there and f32 elsewhere.
bool CpuHasBf16();

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_KERNELS_H_
