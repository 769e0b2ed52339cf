// What a model's speed on a GPU comes to beside what the GPU can do at most, measured in the same run.
#ifndef CONCLAVE_CLI_BENCH_CEILINGS_H_
#define CONCLAVE_CLI_BENCH_CEILINGS_H_

#include <string>

#include "absl/status/statusor.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/accelerator/accelerator.h"
#include "moe/model/device/compute_target.h"

namespace conclave {

class BenchCeilings {
 public:
  // Measures where the target is a GPU, before a model takes its memory: a second. Errors are the accelerator's.
  static absl::StatusOr<BenchCeilings> Measure(const TargetOptions& target);

  // Of a CPU nothing is measured, and all text is empty.
  bool known() const { return ceilings_.copy_bytes_per_second > 0; }
  const AcceleratorCeilings& values() const { return ceilings_; }
  // "ceilings: copies 3.02 TB/s, 8192^3 bfloat16 790, e4m3 1310 TFLOP/s", one line.
  std::string Text() const;
  // Of one sequence that decodes: the weights that a token reads, over the bandwidth of copies.
  std::string OfDecode(const Checkpoint& checkpoint, double tokens_per_second) const;
  // Of reading a prompt of so many tokens: its PrefillOperations, over the rates of products.
  std::string OfPrefill(const Checkpoint& checkpoint, int prompt_tokens, double tokens_per_second) const;

 private:
  AcceleratorCeilings ceilings_;
};

}  // namespace conclave

#endif  // CONCLAVE_CLI_BENCH_CEILINGS_H_
