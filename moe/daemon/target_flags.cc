#include "moe/daemon/target_flags.h"

namespace conclave {

void AddTargetFlags(Flags& flags, TargetOptions& options) {
  flags.Add("device", &options.device, "cpu, cuda or cuda:N, the N-th GPU");
  flags.AddBytes("gpu-memory", &options.gpu_memory_bytes,
                 "memory of the GPU that may be used, weights, caches and all; 0: nearly all that is free");
  flags.Add("compute", &options.compute,
            "auto, f32, bf16, on a CPU int8 or, on a GPU, fp8; the same on the router and on all shards");
  flags.Add("isa", &options.isa,
            "forces a CPU kernel set: scalar, avx2, avx512, avx512-bf16 or amx; empty: the best of this CPU");
}

}  // namespace conclave
