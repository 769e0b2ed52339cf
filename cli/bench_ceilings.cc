#include "cli/bench_ceilings.h"

#include "absl/strings/str_format.h"
#include "moe/base/status_macros.h"
#include "moe/checkpoint/inspect.h"
#include "moe/kernels/accelerator/open_accelerator.h"

namespace conclave {
namespace {

double Percent(double part, double whole) { return whole > 0 ? 100 * part / whole : 0; }

}  // namespace

absl::StatusOr<BenchCeilings> BenchCeilings::Measure(const TargetOptions& target) {
  BenchCeilings measured;
  if (target.device == "cpu") return measured;
  ASSIGN_OR_RETURN(const auto accelerator, OpenAccelerator(target.device));
  ASSIGN_OR_RETURN(measured.ceilings_, accelerator->MeasureCeilings());
  return measured;
}

std::string BenchCeilings::Text() const {
  if (!known()) return "";
  return absl::StrFormat("ceilings: copies %.2f TB/s, 8192^3 bfloat16 %.0f, e4m3 %.0f TFLOP/s\n",
                         ceilings_.copy_bytes_per_second * 1e-12, ceilings_.bf16_flops_per_second * 1e-12,
                         ceilings_.fp8_flops_per_second * 1e-12);
}

std::string BenchCeilings::OfDecode(const Checkpoint& checkpoint, double tokens_per_second) const {
  if (!known()) return "";
  const double bytes = static_cast<double>(Inspect(checkpoint, 1).active_bytes) * tokens_per_second;
  return absl::StrFormat("  weights at %.2f TB/s, %.0f%% of copies", bytes * 1e-12,
                         Percent(bytes, ceilings_.copy_bytes_per_second));
}

std::string BenchCeilings::OfPrefill(const Checkpoint& checkpoint, int prompt_tokens, double tokens_per_second) const {
  if (!known()) return "";
  const double operations = PrefillOperations(CountParameters(checkpoint.spec()), prompt_tokens);
  const double rate = operations / prompt_tokens * tokens_per_second;
  return absl::StrFormat("  %.0f TFLOP/s, %.0f%% of bfloat16, %.0f%% of e4m3", rate * 1e-12,
                         Percent(rate, ceilings_.bf16_flops_per_second), Percent(rate, ceilings_.fp8_flops_per_second));
}

}  // namespace conclave
