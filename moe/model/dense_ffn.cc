#include "moe/model/dense_ffn.h"

#include <algorithm>

#include "moe/kernels/parallel.h"

namespace conclave {

DenseFfn::DenseFfn(const Kernels& kernels, ThreadPool& threads, int hidden, int intermediate_max, int rows_max)
    : kernels_(kernels),
      threads_(threads),
      packer_(kernels, threads, rows_max, hidden),
      activation_(kernels, threads, rows_max, intermediate_max),
      gate_(DType::kF32, rows_max, intermediate_max),
      up_(DType::kF32, rows_max, intermediate_max) {}

void DenseFfn::Run(const FfnWeights& weights, ConstMatView x, MatView out) {
  const int64_t intermediate = weights.gate.rows();
  const PackedRows packed = packer_.Pack(x, {&weights.gate, &weights.up});
  const PackedRows activation = activation_.Rows(x.rows, weights.down);
  const SwigluScratch scratch = {gate_.first(x.rows).Cols(0, intermediate), up_.first(x.rows).Cols(0, intermediate)};
  // Half the columns a piece, as each stands for two products.
  const int64_t multiple = kernels_.columns_multiple;
  const int64_t columns =
      std::max(multiple, LinearGrain(x.rows, weights.gate, threads_.threads()) / 2 / multiple * multiple);
  threads_.ParallelFor(intermediate, columns, [&](int64_t begin, int64_t end) {
    kernels_.swiglu_packed(packed, weights.gate, weights.up, begin, end, scratch, activation);
  });
  RunLinears(kernels_, threads_, activation, {{&weights.down, out}});
}

}  // namespace conclave
