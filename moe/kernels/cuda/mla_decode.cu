// Checks a problem and chooses its kernel.
#include "moe/kernels/cuda/mla_decode.h"

#include <string>

#include "moe/kernels/cuda/launch.h"
#include "moe/kernels/cuda/mla_decode_kernels.h"

namespace conclave::cuda {
namespace {

int Splits(int tokens_max) { return (tokens_max + kMlaSplitTokens - 1) / kMlaSplitTokens; }

absl::Status Check(const MlaDecode& problem) {
  const auto invalid = [](const std::string& text) { return absl::InvalidArgumentError("MLA decode: " + text); };
  if (problem.rows < 0) return invalid("rows is negative");
  if (problem.heads < 1) return invalid("heads must be at least 1");
  if (problem.latent < 1 || problem.latent > 1024) return invalid("latent must be 1 to 1024");
  if (problem.rope < 0 || problem.rope > 1024) return invalid("rope must be 0 to 1024");
  if (problem.pages < 1 || problem.page_tokens < 1) return invalid("pages and page_tokens must be at least 1");
  if (problem.tokens_max < 1) return invalid("tokens_max must be at least 1");
  const bool anywhere = problem.table_of_row != nullptr && problem.table_stride == 1;
  if (!anywhere && int64_t{problem.table_stride} * problem.page_tokens < problem.tokens_max) {
    return invalid("table_stride pages hold fewer than tokens_max tokens");
  }
  if (!(problem.scale > 0)) return invalid("scale must be positive");
  if (!problem.query || !problem.cache || !problem.page_tables || !problem.lengths || !problem.out) {
    return invalid("a pointer is null");
  }
  if ((reinterpret_cast<uintptr_t>(problem.query) | reinterpret_cast<uintptr_t>(problem.cache) |
       reinterpret_cast<uintptr_t>(problem.workspace)) % 16 != 0) {
    return invalid("query, cache and workspace must be 16-byte aligned");
  }
  return absl::OkStatus();
}

}  // namespace

size_t MlaWorkspaceBytes(int rows, int heads, int latent, int tokens_max) {
  const int splits = Splits(tokens_max);
  // Of each row, head and split: the unnormalised sum, and its maximum and denominator.
  return splits <= 1 ? 0 : size_t{4} * rows * heads * splits * (latent + 2);
}

bool MlaTakesTensorCores(const MlaDecode& problem) { return Sm90Bf16MlaTakes(problem); }

absl::Status LaunchMlaDecode(const MlaDecode& problem, void* stream) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  if (problem.rows == 0) return absl::OkStatus();
  const auto limits = Limits();
  if (!limits.ok()) return limits.status();
  if (!limits->hopper) WarnSlow("MLA decodes");
  if (problem.packed && !(limits->hopper && Sm90Bf16MlaTakes(problem))) {
    return absl::InvalidArgumentError(
        "MLA decode: packed needs bfloat16, latent 512, rope 64, pages of 8, 16, 32 or 64 tokens and a Hopper device");
  }
  if (!limits->hopper || !Sm90Bf16MlaTakes(problem)) return LaunchPlainMla(problem, static_cast<cudaStream_t>(stream));
  if (problem.workspace == nullptr && Splits(problem.tokens_max) > 1) {
    return absl::InvalidArgumentError("MLA decode: workspace is null");
  }
  return LaunchSm90Bf16Mla(problem, static_cast<cudaStream_t>(stream));
}

absl::Status LaunchPlainMlaDecode(const MlaDecode& problem, void* stream) {
  if (absl::Status status = Check(problem); !status.ok()) return status;
  if (problem.packed) return absl::InvalidArgumentError("MLA decode: packed needs tensor cores");
  return problem.rows == 0 ? absl::OkStatus() : LaunchPlainMla(problem, static_cast<cudaStream_t>(stream));
}

}  // namespace conclave::cuda
