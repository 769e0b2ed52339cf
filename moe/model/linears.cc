#include "moe/model/linears.h"

#include <algorithm>

#include "moe/base/check.h"
#include "moe/kernels/parallel.h"

namespace conclave {
namespace {

// About what a core does while it wakes another one.
constexpr int64_t kMultiplyAddsMin = 128 << 10;
// The pool makes larger pieces of them.
constexpr int64_t kGrainsPerThread = 16;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

}  // namespace

int64_t TaskGrain(int64_t count, int64_t multiply_adds, int threads) {
  if (threads == 1) return std::max<int64_t>(count, 1);
  const int64_t fair = CeilDiv(count, threads * kGrainsPerThread);
  return std::max<int64_t>({fair, kMultiplyAddsMin / std::max<int64_t>(multiply_adds, 1), 1});
}

RowPacker::RowPacker(const Kernels& kernels, ThreadPool& threads, int64_t rows_max, int64_t cols_max)
    : kernels_(kernels), threads_(threads), bytes_(DType::kU8, rows_max, kernels.packed_bytes(1, cols_max)) {}

PackedRows RowPacker::Rows(int64_t rows, const WeightView& w) {
  CONCLAVE_CHECK(kernels_.packed_bytes(rows, w.cols()) <= bytes_.bytes()) << rows << " rows of " << w.cols();
  return PackedRows{bytes_.view().data, rows, w.cols(), FormOf(w)};
}

PackedRows RowPacker::Pack(ConstMatView x, std::initializer_list<const WeightView*> weights) {
  PackedRows packed = Rows(x.rows, **weights.begin());
  for (const WeightView* w : weights) packed.forms |= FormOf(*w);
  const int64_t tasks = CeilDiv(x.rows, kPackedRowsMultiple);
  const int64_t grain = TaskGrain(tasks, 4 * kPackedRowsMultiple * x.cols, threads_.threads());
  threads_.ParallelFor(tasks, grain, [&](int64_t begin, int64_t end) {
    kernels_.pack(x, nullptr, begin * kPackedRowsMultiple, std::min(x.rows, end * kPackedRowsMultiple), packed);
  });
  return packed;
}

void RunLinears(const Kernels& kernels, ThreadPool& threads, const PackedRows& x,
                std::initializer_list<LinearJob> jobs) {
  const auto grain = [&](const LinearJob& job) { return LinearGrain(x.rows, *job.w, threads.threads()); };
  int64_t tasks = 0;
  for (const LinearJob& job : jobs) tasks += CeilDiv(job.w->rows(), grain(job));
  // Jobs too small to be split are too small to wake a thread for.
  const int64_t piece = tasks == static_cast<int64_t>(jobs.size()) ? tasks : 1;
  threads.ParallelFor(tasks, piece, [&](int64_t begin, int64_t end) {
    int64_t first = 0;  // the job's first task
    for (const LinearJob& job : jobs) {
      const int64_t columns = grain(job);
      const int64_t job_tasks = CeilDiv(job.w->rows(), columns);
      for (int64_t task = std::max(begin, first); task < std::min(end, first + job_tasks); ++task) {
        const int64_t column = (task - first) * columns;
        kernels.linear_packed(x, *job.w, column, std::min(column + columns, job.w->rows()), job.y);
      }
      first += job_tasks;
    }
  });
}

}  // namespace conclave
