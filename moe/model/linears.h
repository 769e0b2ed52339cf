// Matrix products and other loops of one step, spread over a thread pool. How a loop is split never changes a bit:
// kernels compute every row and column alone.
#ifndef CONCLAVE_MOE_MODEL_LINEARS_H_
#define CONCLAVE_MOE_MODEL_LINEARS_H_

#include <cstdint>
#include <initializer_list>

#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// Indices per piece of a loop over `count` tasks of `multiply_adds` each: a few pieces per thread, so that threads of
// unequal speed end together, and all in one piece where waking a thread costs more than it saves.
int64_t TaskGrain(int64_t count, int64_t multiply_adds, int threads);

// y = x · Wᵀ. x: [rows, K] F32 or BF16; w: [N, K]; y: [rows, N] F32.
struct LinearJob {
  ConstMatView x;
  const WeightView* w;
  MatView y;
};

// Runs all jobs in one parallel loop; they must not depend on each other.
void RunLinears(const Kernels& kernels, ThreadPool& threads, std::initializer_list<LinearJob> jobs);

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_LINEARS_H_
