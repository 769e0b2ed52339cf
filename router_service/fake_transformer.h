// A transformer without weights, for tests of what is around it. Its logits are a hash of everything that the cache
// holds for the sequence, so that one block in the wrong place, lost or overwritten, changes every later token.
#ifndef CONCLAVE_ROUTER_SERVICE_FAKE_TRANSFORMER_H_
#define CONCLAVE_ROUTER_SERVICE_FAKE_TRANSFORMER_H_

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "moe/base/ids.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/model_spec.h"
#include "moe/model/expert_pool.h"
#include "moe/model/kv_storage.h"
#include "moe/model/transformer.h"
#include "moe/tensor/mat_view.h"

namespace conclave {

// 2 layers (the second with 5 experts, top 2), vocab 61, context 96, EOS 60.
ModelSpec FakeSpec();
// The logits after `tokens`: [vocab].
std::vector<float> FakeLogits(absl::Span<const int32_t> tokens);
// Where the row of `token` at `position` goes: two experts, ascending. Weights are position + 0.25 and position + 0.5.
std::array<int32_t, 2> FakeExperts(int32_t token, int32_t position);

// Whoever has this token last gets logits that are not numbers.
inline constexpr int32_t kPoisonToken = 59;

// Checks the limits that it was promised. Used by one thread.
class FakeTransformer final : public Transformer {
 public:
  // `at_experts` runs in each Forward where the experts would, on the engine's thread; its error is Forward's.
  using AtExperts = std::function<absl::Status(absl::Span<const SequenceSlice>)>;
  explicit FakeTransformer(TransformerOptions limits, AtExperts at_experts = nullptr)
      : limits_(limits), at_experts_(std::move(at_experts)) {}

  // From now on it draws, as a device does: it leaves rows that it tells of alone. Before the first Forward.
  void DrawTokens() { draws_ = true; }
  absl::Span<const int32_t> drawn_ids() const override { return drawn_; }
  DrawnLogprobs drawn_logprobs(int64_t row) const override;
  // For the engine over it.
  ThreadPool& threads() { return threads_; }

  absl::Status Forward(absl::Span<const SequenceSlice> slices, KvStorage& kv, ExpertPool& experts, MatView logits,
                       ForwardObserver* observer) override;

 private:
  int32_t Draw(const SequenceSlice& slice, size_t row);  // from own_row_, which is that of the slice's rows with logits

  TransformerOptions limits_;
  AtExperts at_experts_;
  bool draws_ = false;
  std::vector<float> own_row_ = std::vector<float>(FakeSpec().vocab);
  std::vector<int32_t> drawn_;
  std::vector<std::vector<uint64_t>> drawn_words_;  // by row; empty: it did not ask
  ThreadPool threads_{2};
};

// Refuses every call: the fake transformer has no need of experts.
class NoExperts : public ExpertPool {
 public:
  DType row_dtype() const override { return DType::kF32; }
  absl::StatusOr<ExpertTicket> Start(LayerId, ConstMatView, const Routing&) override {
    return absl::UnavailableError("no experts here");
  }
  absl::Status Finish(ExpertTicket, MatView) override { return absl::UnavailableError("no experts here"); }
};

}  // namespace conclave

#endif  // CONCLAVE_ROUTER_SERVICE_FAKE_TRANSFORMER_H_
