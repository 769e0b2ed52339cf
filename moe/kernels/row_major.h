// Packed rows of tables whose products read rows as they are: row by row, in one dtype.
#ifndef CONCLAVE_MOE_KERNELS_ROW_MAJOR_H_
#define CONCLAVE_MOE_KERNELS_ROW_MAJOR_H_

#include <cstdint>

#include "moe/kernels/kernels.h"

namespace conclave {

// The packed functions of a table made of its plain ones. Base has Linear, SiluMul and Convert, and kPackedDType.
template <class Base>
struct RowMajor {
  static int64_t PackedBytes(int64_t rows, int64_t cols) { return rows * cols * SizeOf(Base::kPackedDType); }

  static MatView View(const PackedRows& rows) {
    return MatView{rows.data, Base::kPackedDType, Device::kCpu, rows.rows, rows.cols, rows.cols};
  }

  static void Pack(ConstMatView x, const int32_t* indexes, int64_t begin, int64_t end, const PackedRows& out) {
    if (indexes == nullptr) return Base::Convert(x.Rows(begin, end - begin), View(out).Rows(begin, end - begin));
    for (int64_t row = begin; row < end; ++row) Base::Convert(x.Rows(indexes[row], 1), View(out).Rows(row, 1));
  }

  static void LinearPacked(const PackedRows& x, const WeightView& w, int64_t n_begin, int64_t n_end, MatView y) {
    Base::Linear(View(x), w, n_begin, n_end, y);
  }

  static void SwigluPacked(const PackedRows& x, const WeightView& gate, const WeightView& up, int64_t n_begin,
                           int64_t n_end, const SwigluScratch& scratch, const PackedRows& out) {
    Base::Linear(View(x), gate, n_begin, n_end, scratch.gate);
    Base::Linear(View(x), up, n_begin, n_end, scratch.up);
    const int64_t count = n_end - n_begin;
    const MatView product = scratch.gate.Cols(n_begin, count);
    Base::SiluMul(product, scratch.up.Cols(n_begin, count), product);
    Base::Convert(product, View(out).Cols(n_begin, count));
  }
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_ROW_MAJOR_H_
