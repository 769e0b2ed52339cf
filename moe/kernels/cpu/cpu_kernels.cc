// Checks and unpacks views for the raw tables, and chooses among them.
#include <cstring>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "moe/base/check.h"
#include "moe/kernels/cpu/cpu_features.h"
#include "moe/kernels/cpu/raw_int8.h"
#include "moe/kernels/cpu/raw_kernels.h"
#include "moe/kernels/cpu/raw_tiles.h"
#include "moe/kernels/kernels.h"
#include "moe/kernels/row_major.h"
#include "moe/tensor/latent_row.h"

namespace conclave {
namespace {

cpu::Element ElementOf(const WeightView& w) {
  if (w.code != WeightCode::kPlain) {
    CONCLAVE_CHECK(w.matrix.dtype == DType::kU8 && w.has_scales() && w.block_rows == 1) << Name(w.matrix.dtype);
    CONCLAVE_CHECK(w.block_cols % 8 == 0 || w.block_cols >= w.cols()) << "groups of " << w.block_cols;
    return w.code == WeightCode::kInt8 ? cpu::Element::kInt8 : cpu::Element::kInt4;
  }
  switch (w.matrix.dtype) {
    case DType::kF32:
      return cpu::Element::kF32;
    case DType::kBF16:
      return cpu::Element::kBf16;
    case DType::kF16:
      return cpu::Element::kF16;
    case DType::kF8E4M3:
      return cpu::Element::kF8E4M3;
    default:
      break;
  }
  CONCLAVE_CHECK(false) << "no kernel reads weights of " << Name(w.matrix.dtype);
  __builtin_unreachable();
}

void CheckIsF32(const ConstMatView& view, const char* name) {
  CONCLAVE_CHECK(view.dtype == DType::kF32 && view.device == Device::kCpu) << name << " is " << Name(view.dtype);
}

cpu::ScaleElement ScaleElementOf(DType dtype) {
  if (dtype == DType::kF32) return cpu::ScaleElement::kF32;
  if (dtype == DType::kBF16) return cpu::ScaleElement::kBf16;
  CONCLAVE_CHECK(dtype == DType::kF8E8M0) << "scales of " << Name(dtype);
  return cpu::ScaleElement::kE8M0;
}

cpu::CacheElement ToCacheElement(DType dtype) {
  if (dtype == DType::kF32) return cpu::CacheElement::kF32;
  if (dtype == DType::kBF16) return cpu::CacheElement::kBf16;
  CONCLAVE_CHECK(dtype == DType::kF8E4M3) << "a cache of " << Name(dtype);
  return cpu::CacheElement::kF8;
}

cpu::RawWeight Unpack(const WeightView& w) {
  CONCLAVE_CHECK(w.matrix.device == Device::kCpu) << "weights are not in this process";
  cpu::RawWeight raw = {};
  raw.data = static_cast<const uint8_t*>(w.matrix.data);
  raw.element = ElementOf(w);
  raw.row_bytes = w.matrix.stride * SizeOf(w.matrix.dtype);
  raw.rows = w.rows();
  // One block as large as the matrix where there are no scales.
  raw.scales = cpu::RawScales{nullptr, cpu::ScaleElement::kF32, 0, w.rows() + 1, w.cols() + 1};
  if (!w.has_scales()) return raw;
  CONCLAVE_CHECK(w.matrix.dtype == DType::kF8E4M3 || w.code != WeightCode::kPlain)
      << "block scales on " << Name(w.matrix.dtype);
  CONCLAVE_CHECK(w.block_rows > 0 && w.block_cols > 0) << w.block_rows << "x" << w.block_cols;
  CONCLAVE_CHECK(w.scales.rows == (w.rows() + w.block_rows - 1) / w.block_rows &&
                 w.scales.cols == (w.cols() + w.block_cols - 1) / w.block_cols)
      << "scales " << w.scales.rows << "x" << w.scales.cols << " of " << w.rows() << "x" << w.cols();
  raw.scales =
      cpu::RawScales{w.scales.data, ScaleElementOf(w.scales.dtype), w.scales.stride, w.block_rows, w.block_cols};
  return raw;
}

// The functions of `Kernels` over one raw table, whose products take rows of kPacked.
template <const cpu::RawKernels& kRaw, DType kPacked>
struct Adapter {
  static constexpr DType kPackedDType = kPacked;

  static void Linear(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    CheckIsF32(y, "y");
    CONCLAVE_CHECK(x.dtype == DType::kF32 || x.dtype == DType::kBF16) << "x is " << Name(x.dtype);
    CONCLAVE_CHECK(x.cols == w.cols() && y.cols == w.rows() && x.rows == y.rows)
        << x.rows << "x" << x.cols << " by " << w.rows() << "x" << w.cols() << " into " << y.rows << "x" << y.cols;
    CONCLAVE_CHECK(n_begin >= 0 && n_begin <= n_end && n_end <= w.rows()) << n_begin << ".." << n_end;
    kRaw.linear({x.data, x.dtype == DType::kBF16, x.stride, x.rows, x.cols, Unpack(w), n_begin, n_end,
                 static_cast<float*>(y.data), y.stride});
  }

  static void LinearTransposed(ConstMatView x, const WeightView& w, int64_t k_begin, int64_t k_end, MatView y) {
    CheckIsF32(x, "x");
    CheckIsF32(y, "y");
    CONCLAVE_CHECK(x.cols == w.rows() && y.cols == w.cols() && x.rows == y.rows)
        << x.rows << "x" << x.cols << " by " << w.rows() << "x" << w.cols() << " into " << y.rows << "x" << y.cols;
    CONCLAVE_CHECK(k_begin >= 0 && k_begin <= k_end && k_end <= w.cols()) << k_begin << ".." << k_end;
    CONCLAVE_CHECK(w.code != WeightCode::kInt4 || k_begin % 2 == 0) << "begins inside a byte: " << k_begin;
    kRaw.linear_transposed({static_cast<const float*>(x.data), x.stride, x.rows, x.cols, Unpack(w), k_begin, k_end,
                            static_cast<float*>(y.data), y.stride});
  }

  static void RmsNorm(ConstMatView x, absl::Span<const float> weight, float eps, MatView out) {
    CheckIsF32(x, "x");
    CheckIsF32(out, "out");
    CONCLAVE_CHECK(x.rows == out.rows && x.cols == out.cols && static_cast<int64_t>(weight.size()) == x.cols)
        << x.rows << "x" << x.cols << " with " << weight.size() << " weights";
    for (int64_t m = 0; m < x.rows; ++m) {
      kRaw.rms_norm(x.Row<float>(m), weight.data(), eps, x.cols, out.Row<float>(m));
    }
  }

  static void SiluMul(ConstMatView gate, ConstMatView up, MatView out) {
    CheckIsF32(gate, "gate");
    CheckIsF32(up, "up");
    CheckIsF32(out, "out");
    CONCLAVE_CHECK(gate.rows == out.rows && gate.cols == out.cols && up.rows == out.rows && up.cols == out.cols)
        << gate.rows << "x" << gate.cols << ", " << up.rows << "x" << up.cols;
    for (int64_t m = 0; m < out.rows; ++m) {
      kRaw.silu_mul(gate.Row<float>(m), up.Row<float>(m), out.cols, out.Row<float>(m));
    }
  }

  static void Convert(ConstMatView x, MatView out) {
    CONCLAVE_CHECK(x.rows == out.rows && x.cols == out.cols) << x.rows << "x" << x.cols;
    for (int64_t m = 0; m < x.rows; ++m) {
      if (x.dtype == out.dtype) {
        std::memmove(out.RowBytes(m), x.RowBytes(m), x.cols * SizeOf(x.dtype));
      } else if (x.dtype == DType::kF32 && out.dtype == DType::kBF16) {
        kRaw.to_bf16(x.Row<float>(m), x.cols, out.Row<uint16_t>(m));
      } else {
        CONCLAVE_CHECK(x.dtype == DType::kBF16 && out.dtype == DType::kF32)
            << Name(x.dtype) << " to " << Name(out.dtype);
        kRaw.from_bf16(x.Row<uint16_t>(m), x.cols, out.Row<float>(m));
      }
    }
  }

  static void Axpy(float weight, const void* row, DType row_dtype, int64_t n, float* acc) {
    CONCLAVE_CHECK(row_dtype == DType::kF32 || row_dtype == DType::kBF16) << Name(row_dtype);
    if (row_dtype == DType::kF32) return kRaw.axpy_f32(weight, static_cast<const float*>(row), n, acc);
    kRaw.axpy_bf16(weight, static_cast<const uint16_t*>(row), n, acc);
  }

  static void MlaAttention(const MlaAttentionArgs& args) {
    CONCLAVE_CHECK(args.tokens > 0 && args.page_tokens > 0 && args.heads > 0) << args.tokens << " tokens";
    const LatentRowLayout layout = {args.latent, args.rope};
    kRaw.mla_attention({args.query, args.query_stride, args.pages, ToCacheElement(args.cache_dtype),
                        CachedRowBytes(layout, args.cache_dtype), layout.scales_at(), layout.rope_at(),
                        args.page_tokens, args.tokens, args.heads, args.latent, args.rope, args.scale, args.out,
                        args.out_stride, args.scratch});
  }

  static constexpr Kernels Table(absl::string_view isa, Compute compute) {
    using Packed = RowMajor<Adapter>;
    return Kernels{isa,
                   compute,
                   &Linear,
                   &Packed::PackedBytes,
                   &Packed::Pack,
                   &Packed::LinearPacked,
                   &Packed::SwigluPacked,
                   &LinearTransposed,
                   &RmsNorm,
                   &SiluMul,
                   &Convert,
                   &Axpy,
                   &MlaAttention};
  }
};

struct alignas(64) PackedLine {
  uint8_t bytes[64];
};

// The functions over tiles; all but products are those of `Base`.
template <const cpu::RawTiles& kTiles, class Base>
struct TileAdapter {
  static int64_t PackedBytes(int64_t rows, int64_t cols) { return cpu::PackedBytes(kTiles.planes, rows, cols); }

  static cpu::RawPacked Unpack(const PackedRows& rows) {
    return {static_cast<uint8_t*>(rows.data), rows.rows, rows.cols};
  }

  static void Pack(ConstMatView x, const int32_t* indexes, int64_t begin, int64_t end, const PackedRows& out) {
    CONCLAVE_CHECK(x.dtype == DType::kF32 || x.dtype == DType::kBF16) << "x is " << Name(x.dtype);
    CONCLAVE_CHECK(x.cols == out.cols && begin % kPackedRowsMultiple == 0 && end <= out.rows) << begin << ".." << end;
    CONCLAVE_CHECK(indexes != nullptr || out.rows <= x.rows) << out.rows << " rows of " << x.rows;
    kTiles.pack({x.data, x.dtype == DType::kBF16, x.stride, indexes, begin, end, Unpack(out)});
  }

  static void LinearPacked(const PackedRows& x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    CheckIsF32(y, "y");
    CONCLAVE_CHECK(x.cols == w.cols() && y.cols == w.rows() && x.rows == y.rows)
        << x.rows << "x" << x.cols << " by " << w.rows() << "x" << w.cols() << " into " << y.rows << "x" << y.cols;
    CONCLAVE_CHECK(n_begin >= 0 && n_begin <= n_end && n_end <= w.rows()) << n_begin << ".." << n_end;
    kTiles.linear({Unpack(x), ::conclave::Unpack(w), n_begin, n_end, static_cast<float*>(y.data), y.stride});
  }

  static void SwigluPacked(const PackedRows& x, const WeightView& gate, const WeightView& up, int64_t n_begin,
                           int64_t n_end, const SwigluScratch&, const PackedRows& out) {
    CONCLAVE_CHECK(x.cols == gate.cols() && x.cols == up.cols() && gate.rows() == up.rows() && out.rows == x.rows &&
                   out.cols == gate.rows() && gate.matrix.dtype == up.matrix.dtype && gate.code == up.code)
        << x.rows << "x" << x.cols << " by " << gate.rows() << "x" << gate.cols();
    CONCLAVE_CHECK(n_begin >= 0 && n_begin % kPackedColumnsMultiple == 0 && n_begin <= n_end && n_end <= out.cols &&
                   (n_end % kPackedColumnsMultiple == 0 || n_end == out.cols))
        << n_begin << ".." << n_end;
    kTiles.swiglu({Unpack(x), ::conclave::Unpack(gate), ::conclave::Unpack(up), n_begin, n_end, Unpack(out)});
  }

  // Packs into memory of the calling thread, which grows to the largest call.
  static void Linear(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    thread_local std::vector<PackedLine> scratch;
    const size_t lines = (PackedBytes(x.rows, x.cols) + sizeof(PackedLine) - 1) / sizeof(PackedLine);
    if (scratch.size() < lines) scratch.resize(lines);
    const PackedRows packed = {scratch.data(), x.rows, x.cols};
    Pack(x, nullptr, 0, x.rows, packed);
    LinearPacked(packed, w, n_begin, n_end, y);
  }

  static constexpr Kernels Table(absl::string_view isa, Compute compute) {
    return Kernels{isa,
                   compute,
                   &Linear,
                   &PackedBytes,
                   &Pack,
                   &LinearPacked,
                   &SwigluPacked,
                   &Base::LinearTransposed,
                   &Base::RmsNorm,
                   &Base::SiluMul,
                   &Base::Convert,
                   &Base::Axpy,
                   &Base::MlaAttention};
  }
};

// Integer products for the weights that can be taken, all else by the table `kBase`, which rounds rows to kValues.
// Packed rows are the quantised ones and, behind them, the values.
template <const cpu::RawInt8& kInt8, const Kernels& kBase, Compute kCompute>
struct Int8Adapter {
  static constexpr DType kValues = kCompute == Compute::kInt8 ? DType::kBF16 : DType::kF32;

  // Whole lines, so that rows which begin at a line end at one: tiles of x are read twice as fast from whole lines.
  static int64_t PackedBytes(int64_t rows, int64_t cols) {
    return rows * (cpu::Int8RowBytes(cols) + (cols * SizeOf(kValues) + 63) / 64 * 64);
  }
  static cpu::RawInt8Rows Integers(const PackedRows& rows) {
    return {static_cast<uint8_t*>(rows.data), rows.rows, rows.cols};
  }
  static MatView Values(const PackedRows& rows) {
    return MatView{static_cast<uint8_t*>(rows.data) + rows.rows * cpu::Int8RowBytes(rows.cols),
                   kValues,
                   Device::kCpu,
                   rows.rows,
                   rows.cols,
                   rows.cols};
  }

  static void Pack(ConstMatView x, const int32_t* indexes, int64_t begin, int64_t end, const PackedRows& out) {
    CONCLAVE_CHECK(x.dtype == DType::kF32 || x.dtype == DType::kBF16) << "x is " << Name(x.dtype);
    CONCLAVE_CHECK(x.cols == out.cols && end <= out.rows) << begin << ".." << end;
    if ((out.forms & kIntegerForm) != 0) {
      kInt8.pack({x.data, x.dtype == DType::kBF16, x.stride, indexes, begin, end, 0, out.cols, Integers(out)});
    }
    if ((out.forms & kValueForm) == 0) return;
    for (int64_t row = begin; row < end; ++row) {
      kBase.convert(x.Rows(indexes == nullptr ? row : indexes[row], 1), Values(out).Rows(row, 1));
    }
  }

  static void LinearPacked(const PackedRows& x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    CONCLAVE_CHECK((x.forms & FormOf(w)) != 0) << "rows were not packed for weights of " << Name(w.matrix.dtype);
    if (FormOf(w) == kValueForm) return kBase.linear(Values(x), w, n_begin, n_end, y);
    CheckIsF32(y, "y");
    CONCLAVE_CHECK(x.cols == w.cols() && y.cols == w.rows() && x.rows == y.rows)
        << x.rows << "x" << x.cols << " by " << w.rows() << "x" << w.cols() << " into " << y.rows << "x" << y.cols;
    CONCLAVE_CHECK(n_begin >= 0 && n_begin <= n_end && n_end <= w.rows()) << n_begin << ".." << n_end;
    kInt8.linear({Integers(x), Unpack(w), n_begin, n_end, static_cast<float*>(y.data), y.stride});
  }

  static void SwigluPacked(const PackedRows& x, const WeightView& gate, const WeightView& up, int64_t n_begin,
                           int64_t n_end, const SwigluScratch& scratch, const PackedRows& out) {
    CONCLAVE_CHECK(n_begin % cpu::kInt8Block == 0 && out.rows == x.rows) << n_begin << ".." << n_end;
    CONCLAVE_CHECK(n_end % cpu::kInt8Block == 0 || n_end == out.cols) << n_begin << ".." << n_end;
    LinearPacked(x, gate, n_begin, n_end, scratch.gate);
    LinearPacked(x, up, n_begin, n_end, scratch.up);
    const int64_t count = n_end - n_begin;
    const MatView product = scratch.gate.Cols(n_begin, count);
    kBase.silu_mul(product, scratch.up.Cols(n_begin, count), product);
    if ((out.forms & kValueForm) != 0) kBase.convert(product, Values(out).Cols(n_begin, count));
    if ((out.forms & kIntegerForm) == 0) return;
    kInt8.pack({product.data, false, product.stride, nullptr, 0, out.rows, n_begin, n_end, Integers(out)});
  }

  // Packs into memory of the calling thread, which grows to the largest call.
  static void Linear(ConstMatView x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    if (FormOf(w) == kValueForm) return kBase.linear(x, w, n_begin, n_end, y);
    thread_local std::vector<PackedLine> scratch;
    const size_t lines = PackedBytes(x.rows, x.cols) / sizeof(PackedLine);
    if (scratch.size() < lines) scratch.resize(lines);
    const PackedRows packed = {scratch.data(), x.rows, x.cols, kIntegerForm};
    Pack(x, nullptr, 0, x.rows, packed);
    LinearPacked(packed, w, n_begin, n_end, y);
  }

  static constexpr Kernels Table(absl::string_view isa) {
    Kernels table = kBase;
    table.isa = isa;
    table.compute = kCompute;
    table.linear = &Linear;
    table.packed_bytes = &PackedBytes;
    table.pack = &Pack;
    table.linear_packed = &LinearPacked;
    table.swiglu_packed = &SwigluPacked;
    table.columns_multiple = cpu::kInt8Block;
    return table;
  }
};

template <const cpu::RawKernels& kRaw>
using AdapterF32 = Adapter<kRaw, DType::kF32>;
template <const cpu::RawKernels& kRaw>
using AdapterBf16 = Adapter<kRaw, DType::kBF16>;

constexpr Kernels kAmxTable =
    TileAdapter<cpu::kAmxBf16, AdapterBf16<cpu::kAvx512DotBf16>>::Table("amx", Compute::kBF16);
constexpr Kernels kAvx512DotTable = AdapterBf16<cpu::kAvx512DotBf16>::Table("avx512-bf16", Compute::kBF16);
constexpr Kernels kAvx512Table = AdapterBf16<cpu::kAvx512Bf16>::Table("avx512", Compute::kBF16);
constexpr Kernels kAvx2Table = AdapterBf16<cpu::kAvx2Bf16>::Table("avx2", Compute::kBF16);
constexpr Kernels kScalarTable = AdapterBf16<cpu::kScalarBf16>::Table("scalar", Compute::kBF16);
constexpr Kernels kAmxSplitTable =
    TileAdapter<cpu::kAmxBf16x3, AdapterF32<cpu::kAvx512F32>>::Table("amx", Compute::kBF16x3);
constexpr Kernels kAvx512FloatTable = AdapterF32<cpu::kAvx512F32>::Table("avx512", Compute::kF32);
constexpr Kernels kAvx2FloatTable = AdapterF32<cpu::kAvx2F32>::Table("avx2", Compute::kF32);
constexpr Kernels kScalarFloatTable = AdapterF32<cpu::kScalarF32>::Table("scalar", Compute::kF32);

constexpr Kernels kTables[] = {
    // Fastest first.
    kAmxTable,
    kAmxSplitTable,
    kAvx512DotTable,
    kAvx512FloatTable,
    kAvx512Table,
    kAvx2FloatTable,
    kAvx2Table,
    kScalarFloatTable,
    kScalarTable,
    Int8Adapter<cpu::kAmxInt8, kAmxTable, Compute::kInt8>::Table("amx"),
    Int8Adapter<cpu::kAmxInt8, kAmxSplitTable, Compute::kInt8F32>::Table("amx"),
    Int8Adapter<cpu::kAvx512VnniInt8, kAvx512DotTable, Compute::kInt8>::Table("avx512-bf16"),
    Int8Adapter<cpu::kAvx512VnniInt8, kAvx512FloatTable, Compute::kInt8F32>::Table("avx512-bf16"),
    Int8Adapter<cpu::kAvx512Int8, kAvx512Table, Compute::kInt8>::Table("avx512"),
    Int8Adapter<cpu::kAvx512Int8, kAvx512FloatTable, Compute::kInt8F32>::Table("avx512"),
    Int8Adapter<cpu::kAvx2Int8, kAvx2Table, Compute::kInt8>::Table("avx2"),
    Int8Adapter<cpu::kAvx2Int8, kAvx2FloatTable, Compute::kInt8F32>::Table("avx2"),
    Int8Adapter<cpu::kScalarInt8, kScalarTable, Compute::kInt8>::Table("scalar"),
    Int8Adapter<cpu::kScalarInt8, kScalarFloatTable, Compute::kInt8F32>::Table("scalar"),
};

bool Runs(absl::string_view isa) {
  static const cpu::CpuFeatures features = cpu::DetectCpuFeatures();
  if (isa == "amx") return features.amx && cpu::kAmxBf16.pack != nullptr;  // null: the compiler had no AMX
  if (isa == "avx512-bf16") return features.avx512_bf16;
  if (isa == "avx512") return features.avx512;
  if (isa == "avx2") return features.avx2;
  return true;
}

}  // namespace

absl::string_view Name(Compute compute) {
  switch (compute) {
    case Compute::kF32:
      return "f32";
    case Compute::kBF16:
      return "bf16";
    case Compute::kF8:
      return "fp8";
    case Compute::kBF16x3:
      return "bf16x3";
    case Compute::kInt8:
      return "int8";
    case Compute::kInt8F32:
      return "int8-f32";
  }
  return "unknown";
}

absl::StatusOr<const Kernels*> CpuKernels(Compute compute, absl::string_view forced_isa) {
  if (compute == Compute::kF8)
    return absl::InvalidArgumentError("no CPU kernels compute in fp8: use f32, bf16 or int8");
  bool known = forced_isa.empty();
  for (const Kernels& table : kTables) {
    if (!forced_isa.empty() && table.isa != forced_isa) continue;
    known = true;
    if (table.compute != compute) continue;
    if (Runs(table.isa)) return &table;
    if (forced_isa.empty()) continue;
    return absl::FailedPreconditionError(absl::StrCat(
        "this CPU (or its operating system) does not run the instruction set \"", forced_isa,
        "\"; leave the choice empty to take the fastest that it runs, or ask for \"scalar\", which runs everywhere"));
  }
  if (known) {
    return absl::InvalidArgumentError(absl::StrCat("the instruction set \"", forced_isa,
                                                   "\" has no kernels for compute ", Name(compute),
                                                   "; use another, or compute bf16"));
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown instruction set \"", forced_isa,
                                                 "\"; known are scalar, avx2, avx512, avx512-bf16 and amx"));
}

bool CpuHasBf16() { return Runs("avx512-bf16"); }

int64_t MlaScratchFloats(int heads, int latent, int rope) { return cpu::MlaScratch(heads, latent, rope); }

}  // namespace conclave
