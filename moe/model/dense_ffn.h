// The feed-forward networks that every row passes: a dense layer's, and the shared expert of an MoE layer.
#ifndef CONCLAVE_MOE_MODEL_DENSE_FFN_H_
#define CONCLAVE_MOE_MODEL_DENSE_FFN_H_

#include "moe/base/thread_pool.h"
#include "moe/kernels/kernels.h"
#include "moe/model/expert_ffn.h"
#include "moe/model/linears.h"
#include "moe/tensor/buffer.h"

namespace conclave {

// Owns scratch for the widest of them; used by one thread, which fans out over `threads`.
class DenseFfn {
 public:
  // `kernels` are DenseKernels(...).
  DenseFfn(const Kernels& kernels, ThreadPool& threads, int hidden, int intermediate_max, int rows_max);

  // out = down · (silu(gate · x) ⊙ (up · x)), not rounded. x, out: [rows, hidden] F32.
  // REQUIRES: rows and the weights' intermediate size are within what it was sized for.
  void Run(const FfnWeights& weights, ConstMatView x, MatView out);

 private:
  const Kernels& kernels_;
  ThreadPool& threads_;
  RowPacker packer_;      // of x
  RowPacker activation_;  // [rows_max, intermediate_max] packed
  MatBuffer gate_;        // [rows_max, intermediate_max] F32
  MatBuffer up_;          // [rows_max, intermediate_max] F32
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_DENSE_FFN_H_
