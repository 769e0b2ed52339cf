#include "expert_service/row_memory.h"

#include <algorithm>
#include <cstdint>

#include "moe/base/limits.h"
#include "moe/transport/nccl/nccl_pair.h"
#include "moe/transport/ucx/ucx_expert_server.h"

namespace conclave {

namespace {

// Of the largest call that there is.
struct CallBytes {
  CallBytes(const ModelSpec& spec, DType row_dtype) {
    const int64_t all_rows = int64_t{limits::kCallRowsMax} * spec.hidden * SizeOf(row_dtype);
    rows = std::min(all_rows, limits::kCallBytesMax);
    results = std::min(all_rows * spec.gate.top_k, limits::kCallBytesMax);
  }
  int64_t rows = 0, results = 0;
};

}  // namespace

absl::Status ReserveNcclPairs(const ModelSpec& spec, DType row_dtype, int routers, DeviceMemory& memory) {
  const CallBytes bytes(spec, row_dtype);
  return memory.Reserve("rows over nccl", NcclPairBytesMax(bytes.rows, bytes.results) * routers);
}

absl::Status ReserveUcxRows(const ModelSpec& spec, DType row_dtype, DeviceMemory& memory) {
  const CallBytes bytes(spec, row_dtype);
  return memory.Reserve("rows over ucx", UcxDeviceBytesMax(bytes.rows, bytes.results));
}

}  // namespace conclave
