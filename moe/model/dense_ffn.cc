#include "moe/model/dense_ffn.h"

#include "moe/model/linears.h"

namespace conclave {

DenseFfn::DenseFfn(const Kernels& kernels, ThreadPool& threads, int intermediate_max, int rows_max)
    : kernels_(kernels),
      threads_(threads),
      gate_(DType::kF32, rows_max, intermediate_max),
      up_(DType::kF32, rows_max, intermediate_max) {}

void DenseFfn::Run(const FfnWeights& weights, ConstMatView x, MatView out) {
  const int64_t intermediate = weights.gate.rows();
  const MatView gate = gate_.first(x.rows).Cols(0, intermediate);
  const MatView up = up_.first(x.rows).Cols(0, intermediate);
  RunLinears(kernels_, threads_, {{x, &weights.gate, gate}, {x, &weights.up, up}});
  threads_.ParallelFor(x.rows, TaskGrain(x.rows, 16 * intermediate, threads_.threads()),
                       [&](int64_t begin, int64_t end) {
                         const MatView product = gate.Rows(begin, end - begin);
                         kernels_.silu_mul(product, up.Rows(begin, end - begin), product);
                       });
  RunLinears(kernels_, threads_, {{gate, &weights.down, out}});
}

}  // namespace conclave
