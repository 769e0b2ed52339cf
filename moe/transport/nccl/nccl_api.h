// The functions of NCCL's public C interface that the transport uses, found at run time: programs are built without
// NCCL and run without it. Tests put a fake behind the same table.
#ifndef CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_API_H_
#define CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_API_H_

#include <climits>
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace conclave {

// ncclUniqueId, passed by value as there.
struct NcclId {
  char bytes[128];
};

// ncclConfig_t as of 2.27; later versions read `size` and `version` and take defaults for what came after.
struct NcclConfig {
  size_t size = sizeof(NcclConfig);
  unsigned magic = 0xcafebeef;
  unsigned version = 22700;
  int blocking = INT_MIN;
  int cga_cluster_size = INT_MIN;
  int ctas_min = INT_MIN;
  int ctas_max = INT_MIN;
  const char* net_name = nullptr;
  int split_share = INT_MIN;
  int traffic_class = INT_MIN;
  const char* name = nullptr;
  int collnet = INT_MIN;
  int cta_policy = INT_MIN;
  int shrink_share = INT_MIN;
  int nvls_ctas = INT_MIN;
};

// Of ncclResult_t, what is told apart here.
inline constexpr int kNcclSuccess = 0;
inline constexpr int kNcclInProgress = 7;
inline constexpr int kNcclBytes = 0;  // ncclInt8 of ncclDataType_t

using NcclComm = void*;    // ncclComm_t
using NcclStream = void*;  // cudaStream_t

// Signatures are nccl.h's; results are ncclResult_t.
struct NcclApi {
  int version = 0;  // 23007 is 2.30.7
  int (*get_unique_id)(NcclId* id) = nullptr;
  int (*comm_init_rank_config)(NcclComm* comm, int ranks, NcclId id, int rank, NcclConfig* config) = nullptr;
  int (*comm_get_async_error)(NcclComm comm, int* result) = nullptr;
  int (*comm_abort)(NcclComm comm) = nullptr;
  int (*send)(const void* buffer, size_t count, int type, int peer, NcclComm comm, NcclStream stream) = nullptr;
  int (*receive)(void* buffer, size_t count, int type, int peer, NcclComm comm, NcclStream stream) = nullptr;
  const char* (*get_error_string)(int result) = nullptr;
  const char* (*get_last_error)(NcclComm comm) = nullptr;  // of any communicator where null; process-wide text
};

// What the transport needs, and what it needs where both ends are on one GPU.
inline constexpr int kNcclVersionMin = 22700;
inline constexpr int kNcclVersionOneGpuMin = 23000;

// libnccl.so.2 of this machine, opened once and never closed. FAILED_PRECONDITION says what is missing: the library, a
// function of it, or a version that is new enough. Call it before other threads run: NCCL reads its environment, to
// which this adds, where they are not set, NCCL_MULTI_RANK_GPU_ENABLE=1 and NCCL_NVLS_ENABLE=0.
absl::StatusOr<const NcclApi*> LoadNccl();

// "2.30.7"
std::string NcclVersionText(int version);
// OK for kNcclSuccess and kNcclInProgress; else UNAVAILABLE with `what` and NCCL's own words.
absl::Status NcclStatus(const NcclApi& api, absl::string_view what, int result);

}  // namespace conclave

#endif  // CONCLAVE_MOE_TRANSPORT_NCCL_NCCL_API_H_
