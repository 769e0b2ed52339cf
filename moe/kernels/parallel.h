// Matrix products over a thread pool. Columns are split; a column's dot product is never split, so that the number of
// threads changes no bit.
#ifndef CONCLAVE_MOE_KERNELS_PARALLEL_H_
#define CONCLAVE_MOE_KERNELS_PARALLEL_H_

#include <cstdint>

#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/weight_view.h"

namespace conclave {

// y = x · Wᵀ: x [M, K] F32 or BF16, w [N, K], y [M, N] F32, as Kernels::linear. Products too small to be worth waking
// a thread run on the caller's. Allocates nothing. REQUIRES: the caller may call pool.ParallelFor
void ParallelLinear(const Kernels& kernels, ThreadPool& pool, ConstMatView x, const WeightView& w, MatView y);

// The columns of one piece of work: a multiple of 32, or all N where one thread should do it alone.
int64_t LinearGrain(int64_t rows, const WeightView& w, int threads);

}  // namespace conclave

#endif  // CONCLAVE_MOE_KERNELS_PARALLEL_H_
