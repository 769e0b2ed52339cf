// Times steps of a model on an accelerator, without an engine: step_bench MODEL_DIR COMPUTE [DEVICE
// [steps|once|elsewhere [BLOCK_TOKENS [CONTEXT]]]]. Decoding steps of several batch sizes behind prompts of 128 tokens,
// or CONTEXT of them, whose tokens are the most likely ones, drawn from all, or drawn within top_p 0.95 on the device,
// the most likely ones with the log probabilities of 20, and with the logits' way to the host; and prefill of 128 x 128
// tokens in one step. "once" runs each step a single time, for a profiler to look at. With "elsewhere" rows pass
// through the host to the experts, though they are on the device: what steps with shards take beside the shards and the
// way to them.
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "moe/base/quantile.h"
#include "moe/base/status_macros.h"
#include "moe/base/thread_pool.h"
#include "moe/checkpoint/checkpoint.h"
#include "moe/kernels/token_draw.h"
#include "moe/model/device/compute_target.h"
#include "moe/model/kv_storage.h"
#include "moe/model/numeric_profile.h"
#include "moe/tensor/mat_view.h"
#include "moe/tensor/row_format.h"

namespace conclave {
namespace {

constexpr int kPrompt = 128, kSequences = 128;
constexpr int kKinds = 5;  // of draws
constexpr int kDecoded = 128;  // positions that steps take behind the context

class StepBench {
 public:
  // Contexts are multiples of kPrompt.
  StepBench(int block_tokens, int context)
      : block_tokens_(block_tokens), context_(context), blocks_each_((context + kDecoded) / block_tokens) {}

  absl::Status Open(const std::string& directory, const TargetOptions& options, bool elsewhere) {
    ASSIGN_OR_RETURN(target_, ComputeTarget::Create(options));
    ASSIGN_OR_RETURN(checkpoint_, Checkpoint::Open(directory));
    const TransformerOptions limits{.rows_max = kPrompt * kSequences, .logit_rows_max = kSequences,
                                    .context_max = context_ + kDecoded};
    const absl::Time begin = absl::Now();
    ASSIGN_OR_RETURN(experts_, target_->MakeLocalExperts(*checkpoint_, threads_, limits.rows_max));
    ASSIGN_OR_RETURN(transformer_,
                     target_->MakeTransformer(*checkpoint_, threads_, elsewhere ? nullptr : experts_.get(), limits));
    ASSIGN_OR_RETURN(kv_, transformer_->NewCache(checkpoint_->spec(), target_->cache_dtype(checkpoint_->spec()),
                                                 blocks_each_ * kSequences, block_tokens_));
    std::printf(
        "%s\nloaded in %.1f s: %s\n",
        NumericProfile(target_->kernels(), RowFormat::kCompute, target_->cache_dtype(checkpoint_->spec())).c_str(),
        absl::ToDoubleSeconds(absl::Now() - begin), target_->memory()->Plan().c_str());
    return absl::OkStatus();
  }

  // One step of `count` sequences with `rows` tokens each from `position` on; seconds. Without a draw the logits come
  // to the host.
  absl::StatusOr<double> Step(int count, int rows, int position, const std::optional<TokenDraw>& draw) {
    std::vector<std::vector<int32_t>> ids(count), blocks(count);
    std::vector<SequenceSlice> slices;
    for (int i = 0; i < count; ++i) {
      for (int row = 0; row < rows; ++row)
        ids[i].push_back((i * 7919 + (position + row) * 104729) % checkpoint_->spec().vocab);
      blocks[i].resize(blocks_each_);
      std::iota(blocks[i].begin(), blocks[i].end(), i * blocks_each_);
      slices.push_back({ids[i], position, blocks[i], 1, draw});
      if (draw.has_value()) slices.back().draw->uniform = static_cast<float>(i) / static_cast<float>(count);
    }
    const MatView logits = transformer_->host_logits().Rows(0, count);
    const absl::Time begin = absl::Now();
    RETURN_IF_ERROR(transformer_->Forward(slices, *kv_, *experts_, logits, nullptr));
    return absl::ToDoubleSeconds(absl::Now() - begin);
  }

  absl::Status RunOnce() {
    RETURN_IF_ERROR(Step(kSequences, kPrompt, 0, TokenDraw{}).status());
    for (const int count : {1, 64, 128}) RETURN_IF_ERROR(Step(count, 1, kPrompt, TokenDraw{}).status());
    return absl::OkStatus();
  }

  absl::Status Run() {
    std::vector<double> prefill;
    for (int i = 0; i < 4; ++i) {
      ASSIGN_OR_RETURN(prefill.emplace_back(), Step(kSequences, kPrompt, 0, TokenDraw{}));
    }
    std::printf("prefill %d x %d: %.1f ms, %.0f tokens/s\n", kSequences, kPrompt, MedianOf(prefill) * 1e3,
                kSequences * kPrompt / MedianOf(prefill));
    for (int position = kPrompt; position < context_; position += kPrompt) {
      RETURN_IF_ERROR(Step(kSequences, kPrompt, position, TokenDraw{}).status());
    }
    std::printf("behind %d tokens in blocks of %d:\n", context_, block_tokens_);
    for (const int count : {1, 2, 4, 8, 16, 32, 64, 128}) {
      TokenDraw of_all, within_top_p;
      of_all.temperature = within_top_p.temperature = 0.8f;
      within_top_p.top_p = 0.95f;
      TokenDraw with_logprobs;
      with_logprobs.top_logprobs = 20;
      const std::optional<TokenDraw> kinds[kKinds] = {TokenDraw{}, of_all, within_top_p, with_logprobs, std::nullopt};
      std::vector<double> seconds[kKinds];
      for (int i = 0; i < 24; ++i) {
        for (int kind = 0; kind < kKinds; ++kind) {
          ASSIGN_OR_RETURN(const double took, Step(count, 1, context_ + kKinds * i + kind, kinds[kind]));
          if (i >= 3) seconds[kind].push_back(took);
        }
      }
      std::printf("decode step, batch %3d: most likely %.3f ms, drawn %.3f ms, within top_p %.3f ms, with log "
                  "probabilities %.3f ms, logits on the host %.3f ms\n", count, MedianOf(seconds[0]) * 1e3,
                  MedianOf(seconds[1]) * 1e3, MedianOf(seconds[2]) * 1e3, MedianOf(seconds[3]) * 1e3,
                  MedianOf(seconds[4]) * 1e3);
    }
    return absl::OkStatus();
  }

 private:
  const int block_tokens_, context_, blocks_each_;
  ThreadPool threads_{1};
  std::unique_ptr<ComputeTarget> target_;
  std::unique_ptr<Checkpoint> checkpoint_;
  std::unique_ptr<ExpertPool> experts_;
  std::unique_ptr<Transformer> transformer_;
  std::unique_ptr<KvStorage> kv_;
};

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr,
                 "usage: step_bench MODEL_DIR COMPUTE [DEVICE [steps|once|elsewhere [BLOCK_TOKENS [CONTEXT]]]]\n");
    return 2;
  }
  const int block_tokens = argc > 5 ? std::atoi(argv[5]) : conclave::kDeviceKvBlockTokens;
  const int context = argc > 6 ? std::atoi(argv[6]) : conclave::kPrompt;
  if (!conclave::IsKvBlockSize(block_tokens) || context < conclave::kPrompt || context % conclave::kPrompt != 0) {
    std::fprintf(stderr, "step_bench: BLOCK_TOKENS must be 16, 32 or 64, CONTEXT a multiple of %d\n",
                 conclave::kPrompt);
    return 2;
  }
  conclave::StepBench bench(block_tokens, context);
  const std::string how = argc > 4 ? argv[4] : "";
  absl::Status status =
      bench.Open(argv[1], {.device = argc > 3 ? argv[3] : "cuda", .compute = argv[2]}, how == "elsewhere");
  if (status.ok()) status = how == "once" ? bench.RunOnce() : bench.Run();
  if (!status.ok()) std::fprintf(stderr, "step_bench: %s\n", status.ToString().c_str());
  return status.ok() ? 0 : 1;
}
