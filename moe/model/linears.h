// Matrix products and other loops of one step, spread over a thread pool. How a loop is split never changes a bit:
// kernels compute every row and column alone.
#ifndef CONCLAVE_MOE_MODEL_LINEARS_H_
#define CONCLAVE_MOE_MODEL_LINEARS_H_

#include <cstdint>
#include <initializer_list>

#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/buffer.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Indices per piece of a loop over `count` tasks of `multiply_adds` each: a few pieces per thread, so that threads of
// unequal speed end together, and all in one piece where waking a thread costs more than it saves.
int64_t TaskGrain(int64_t count, int64_t multiply_adds, int threads);

// Owns memory for packed rows; used by one thread, which fans out over `threads`.
class RowPacker {
 public:
  RowPacker(const Kernels& kernels, ThreadPool& threads, int64_t rows_max, int64_t cols_max);

  // Packs x [rows, cols] F32 or BF16, as products with these weights read it; good until the next call.
  PackedRows Pack(ConstMatView x, std::initializer_list<const WeightView*> weights);
  // Memory for rows that products with `w` read, for others to fill.
  PackedRows Rows(int64_t rows, const WeightView& w);

 private:
  const Kernels& kernels_;
  ThreadPool& threads_;
  MatBuffer bytes_;  // [rows_max, bytes of a row]
};

// y = x · Wᵀ. w: [N, K]; y: [rows, N] F32.
struct LinearJob {
  const WeightView* w;
  MatView y;
};

// Runs all jobs over the same x [rows, K] in one parallel loop.
void RunLinears(const Kernels& kernels, ThreadPool& threads, const PackedRows& x,
                std::initializer_list<LinearJob> jobs);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_LINEARS_H_
