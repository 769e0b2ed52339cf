#include "moe/kernels/parallel.h"

#include <algorithm>

namespace conclave {
namespace {

constexpr int64_t kColumnsMultiple = 32;
// Waking a thread costs some ten microseconds; a core reads about 10 bytes and does about 30 multiply-adds of
// memory-resident weights in a nanosecond.
constexpr int64_t kBytesMin = 64 << 10;
constexpr int64_t kMultiplyAddsMin = 512 << 10;
// The pool makes larger pieces of them.
constexpr int64_t kGrainsPerThread = 16;

}  // namespace

int64_t LinearGrain(int64_t rows, const WeightView& w, int threads) {
  const int64_t columns = std::max<int64_t>(w.rows(), 1);
  const int64_t column_bytes = std::max<int64_t>(w.matrix.cols * SizeOf(w.matrix.dtype), 1);
  const int64_t column_work = std::max<int64_t>(rows * w.cols(), 1);
  if (threads == 1) return columns;
  // Enough work by either measure.
  const int64_t least = std::min(kBytesMin / column_bytes, kMultiplyAddsMin / column_work);
  const int64_t fair = (columns + threads * kGrainsPerThread - 1) / (threads * kGrainsPerThread);
  const int64_t grain = std::max<int64_t>({least, fair, 1});
  return std::min(columns, (grain + kColumnsMultiple - 1) / kColumnsMultiple * kColumnsMultiple);
}

void ParallelLinear(const Kernels& kernels, ThreadPool& pool, ConstMatView x, const WeightView& w, MatView y) {
  pool.ParallelFor(w.rows(), LinearGrain(x.rows, w, pool.threads()),
                   [&](int64_t begin, int64_t end) { kernels.linear(x, w, begin, end, y); });
}

}  // namespace conclave
