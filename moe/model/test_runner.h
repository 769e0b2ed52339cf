// For tests: a transformer with local experts over a model directory, driven as an engine would drive it.
#ifndef CONCLAVE_MOE_MODEL_TEST_RUNNER_H_
#define CONCLAVE_MOE_MODEL_TEST_RUNNER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/kernels.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/kv_storage.h"
#include "moe/model/local_experts.h"
#include "moe/model/transformer.h"

namespace conclave {

// Experts and weights of all rows seen so far, per layer, in the order of the rows.
struct RoutingLog : ForwardObserver {
  void OnRouting(LayerId layer, const Routing& routing) override;
  std::map<int, std::vector<int32_t>> experts;
  std::map<int, std::vector<float>> weights;
};

// One sequence's rows in a step.
struct TestSlice {
  int sequence = 0;          // its blocks are allocated by the runner, scattered over the storage
  std::vector<int32_t> ids;  // the next tokens of the sequence
};

// The logits of some rows: [rows, vocab].
using Logits = std::vector<std::vector<float>>;

// The fastest kernels of this CPU.
const Kernels& Fastest(Compute compute);
// `length` token ids that look random and depend on `seed`.
std::vector<int32_t> Prompt(int length, int seed, int vocab);
// Fails the test where a bit differs: -0 is not 0, and NaN equals itself.
void ExpectSameBits(const Logits& got, const Logits& want, const std::string& what);

// Runs sequences of any cut through one transformer with experts of its own.
class TestRunner {
 public:
  static constexpr int kSequencesMax = 8;
  // Every sequence has room for `context` tokens. rows_max bounds one Step.
  static absl::StatusOr<std::unique_ptr<TestRunner>> Create(const std::string& directory, const Kernels& kernels,
                                                            int threads, int rows_max = 256, int context = 256);
  // On `target`, which must outlive the runner.
  static absl::StatusOr<std::unique_ptr<TestRunner>> Create(const std::string& directory, ComputeTarget& target,
                                                            int threads, int rows_max = 256, int context = 256);

  // The same; fails the test and returns null on errors.
  static std::unique_ptr<TestRunner> Make(const std::string& directory, const Kernels& kernels, int threads);

  // Runs one forward pass and returns the logits of all its rows, in order: [rows, vocab].
  absl::StatusOr<Logits> Step(const std::vector<TestSlice>& slices, ForwardObserver* observer = nullptr);
  // The logits of all of `ids`, in pieces of `chunk` tokens, as sequence `sequence` from its position on.
  absl::StatusOr<Logits> Prefill(int sequence, absl::Span<const int32_t> ids, int chunk,
                                 ForwardObserver* observer = nullptr);
  // Forgets all sequences, and caches what comes in `dtype` instead of the compute's own,
  // in blocks of so many tokens.
  absl::Status NewCache(DType dtype, int context = 256, int block_tokens = kKvBlockTokens);
  // Forgets what a sequence has seen.
  void Restart(int sequence) { positions_[sequence] = 0; }

  const ModelSpec& spec() const { return checkpoint_->spec(); }
  const Checkpoint& checkpoint() const { return *checkpoint_; }
  Transformer& transformer() { return *transformer_; }
  KvStorage& kv() { return *kv_; }
  ExpertPool& experts() { return *experts_; }

 private:
  TestRunner() = default;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<ThreadPool> threads_;
  std::unique_ptr<ExpertPool> experts_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<KvStorage> kv_;
  std::vector<int32_t> positions_;
  std::vector<std::vector<int32_t>> blocks_;
};

}  // namespace conclave

#endif  // CONCLAVE_MOE_MODEL_TEST_RUNNER_H_
