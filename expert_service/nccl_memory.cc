#include "expert_service/nccl_memory.h"

#include <algorithm>
#include <cstdint>

#include "moe/base/limits.h"
#include "moe/transport/nccl/nccl_pair.h"

namespace conclave {

absl::Status ReserveNcclPairs(const ModelSpec& spec, DType row_dtype, int routers, DeviceMemory& memory) {
  const int64_t rows_bytes = int64_t{limits::kCallRowsMax} * spec.hidden * SizeOf(row_dtype);
  const int64_t pair = NcclPairBytesMax(std::min(rows_bytes, limits::kCallBytesMax),
                                        std::min(rows_bytes * spec.gate.top_k, limits::kCallBytesMax));
  return memory.Reserve("rows over nccl", pair * routers);
}

}  // namespace conclave
